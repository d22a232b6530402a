/**
 * What happens to a TPM before it is sold: endorsement keys by the templates of the TCG (EK Credential Profile 2.5), their
 * certificates and one of the platform in NV, where firmware and tools look for them. As swtpm_setup does it.
 */

import { firmwareVersion } from '../core/attest.ts';
import { execute } from '../core/dispatch.ts';
import type { Store } from '../core/store.ts';
import { Tpm } from '../core/tpm.ts';
import { publicKeyInfo } from '../core/x509.ts';
import * as der from '../crypto/der.ts';
import type { CommandName, In, Out } from '../spec/commands.ts';
import { ALG, CURVE, NVA, OA, RC, RH, SU } from '../spec/constants.ts';
import { commandBytes, parseResponse, rcOf } from '../spec/message.ts';
import { nullScheme, nullSym, type PublicArea } from '../spec/types.ts';
import { StoreError } from '../store/seal.ts';
import { basicConstraints, extension, keyUsage, type LocalCa } from './ca.ts';

const none = Buffer.alloc(0);
/** PolicySecret(endorsement) in SHA-256; that or the platform's in SHA-384 (EK Credential Profile, B.6). */
const policyA = Buffer.from('837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa', 'hex');
const policyB = Buffer.from(
  'b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12',
  'hex',
);
const aes = (keyBits: number) => ({ algorithm: ALG.AES, keyBits, mode: ALG.CFB });
const ekAttributes =
  OA.fixedTPM | OA.fixedParent | OA.sensitiveDataOrigin | OA.adminWithPolicy | OA.restricted | OA.decrypt;
const parameters = {
  symmetric: nullSym,
  scheme: nullScheme,
  keyBits: 0,
  exponent: 0,
  curveID: 0,
  kdf: nullScheme,
};

interface Ek {
  template: PublicArea;
  handle: number;
  /** Where its certificate is. */
  nvIndex: number;
}
/** Templates L-1, L-2 and H-3, and their indices (2.2.1.4, 2.2.1.5). */
export const eks: readonly Ek[] = [
  {
    handle: 0x81010001,
    nvIndex: 0x01c00002,
    template: {
      type: ALG.RSA,
      nameAlg: ALG.SHA256,
      objectAttributes: ekAttributes,
      authPolicy: policyA,
      parameters: { ...parameters, symmetric: aes(128), keyBits: 2048 },
      unique: { x: Buffer.alloc(256), y: none },
    },
  },
  {
    handle: 0x81010002,
    nvIndex: 0x01c0000a,
    template: {
      type: ALG.ECC,
      nameAlg: ALG.SHA256,
      objectAttributes: ekAttributes,
      authPolicy: policyA,
      parameters: { ...parameters, symmetric: aes(128), curveID: CURVE.P256 },
      unique: { x: Buffer.alloc(32), y: Buffer.alloc(32) },
    },
  },
  {
    handle: 0x81010016,
    nvIndex: 0x01c00016,
    template: {
      type: ALG.ECC,
      nameAlg: ALG.SHA384,
      objectAttributes: ekAttributes | OA.userWithAuth,
      authPolicy: policyB,
      parameters: { ...parameters, symmetric: aes(256), curveID: CURVE.P384 },
      unique: { x: none, y: none },
    },
  },
];
const platformIndex = 0x01c08000;

/** A command of the manufacturer, who has every authorization: all are empty. */
function run<N extends CommandName>(tpm: Tpm, name: N, input: In<N>): Out<N> {
  const response = execute(tpm, commandBytes(name, input));
  const rc = rcOf(response);
  if (rc !== RC.SUCCESS) throw new StoreError('TPM_STATE', `the TPM refuses ${name} (0x${rc.toString(16)})`);
  return parseResponse(name, response);
}

const attribute = (id: string, text: string) => der.set(der.sequence(der.oid(id), der.utf8(text)));
const directoryName = (...attributes: Buffer[]) =>
  extension('2.5.29.17', true, der.sequence(der.context(4, der.sequence(...attributes))));
const extendedKeyUsage = (id: string) => extension('2.5.29.37', false, der.sequence(der.oid(id)));
/** keyEncipherment of RSA, keyAgreement of ECC. */
const usageOf = (pub: PublicArea) => keyUsage(pub.type === ALG.RSA ? 2 : 4);
const version = firmwareVersion.map((v) => v.toString(16).padStart(8, '0')).join('');

/** What is certified of a TPM, and for what (EK Credential Profile, 3.2). */
function ekExtensions(pub: PublicArea): Buffer[] {
  const specification = der.sequence(der.utf8('2.0'), der.integer(0), der.integer(159));
  return [
    directoryName(
      attribute('2.23.133.2.1', 'id:4E595800'),
      attribute('2.23.133.2.2', 'Nyx'),
      attribute('2.23.133.2.3', `id:${version}`),
    ),
    basicConstraints(false),
    extendedKeyUsage('2.23.133.8.1'),
    extension(
      '2.5.29.9',
      false,
      der.sequence(der.sequence(der.oid('2.23.133.2.16'), der.set(specification))),
    ),
    usageOf(pub),
  ];
}
function platformExtensions(pub: PublicArea): Buffer[] {
  return [
    directoryName(
      attribute('2.23.133.5.1.1', 'Nyx'),
      attribute('2.23.133.5.1.4', 'Nyx virtual machine'),
      attribute('2.23.133.5.1.5', '1.0'),
    ),
    basicConstraints(false),
    extendedKeyUsage('2.23.133.8.2'),
    usageOf(pub),
  ];
}

/** Octets in an index that everybody reads and nobody changes; it outlives TPM2_Clear. */
function writeNv(tpm: Tpm, nvIndex: number, data: Buffer): void {
  const attributes =
    NVA.PPWRITE |
    NVA.WRITEDEFINE |
    NVA.PPREAD |
    NVA.OWNERREAD |
    NVA.AUTHREAD |
    NVA.NO_DA |
    NVA.PLATFORMCREATE;
  const authHandle = RH.PLATFORM;
  const publicInfo = { nvIndex, nameAlg: ALG.SHA256, attributes, authPolicy: none, dataSize: data.length };
  run(tpm, 'NV_DefineSpace', { authHandle, auth: none, publicInfo });
  for (let offset = 0; offset < data.length; offset += 1024) {
    run(tpm, 'NV_Write', { authHandle, nvIndex, data: data.subarray(offset, offset + 1024), offset });
  }
  run(tpm, 'NV_WriteLock', { authHandle, nvIndex });
}

/**
 * Makes keys and certificates in the state of a new TPM and leaves it off. `subject`: the common name in the certificates. Throws
 * StoreError when the TPM is not new.
 */
export function manufacture(store: Store, ca: LocalCa, subject = 'Nyx TPM'): void {
  const tpm = new Tpm({ store });
  run(tpm, 'Startup', { startupType: SU.CLEAR });
  for (const { template, handle, nvIndex } of eks) {
    const made = run(tpm, 'CreatePrimary', {
      primaryHandle: RH.ENDORSEMENT,
      inSensitive: { userAuth: none, data: none },
      inPublic: template,
      outsideInfo: none,
      creationPCR: [],
    });
    run(tpm, 'EvictControl', { auth: RH.OWNER, objectHandle: made.handle, persistentHandle: handle });
    run(tpm, 'FlushContext', { flushHandle: made.handle });
    const pub = made.outPublic;
    const publicKey = publicKeyInfo(pub)!;
    writeNv(tpm, nvIndex, ca.issue({ subject, publicKey, extensions: ekExtensions(pub) }));
    if (pub.type === ALG.RSA) {
      writeNv(tpm, platformIndex, ca.issue({ subject, publicKey, extensions: platformExtensions(pub) }));
    }
  }
  run(tpm, 'Shutdown', { shutdownType: SU.CLEAR });
}
