/** Commands made from the same tables that read them, for tests: a client of the TPM in the process. */
import { execute } from '../core/dispatch.ts';
import { Tpm, type TpmOptions } from '../core/tpm.ts';
import type { CommandName, In, Out } from '../spec/commands.ts';
import { ALG, OA, RC, RH, SU } from '../spec/constants.ts';
import { commandBytes, parseResponse, rcOf } from '../spec/message.ts';
import { nullScheme, nullSym, type PublicArea } from '../spec/types.ts';

const none = Buffer.alloc(0);

export { commandBytes, parseResponse, rcOf };

export class Client {
  tpm: Tpm;
  failure: unknown;

  constructor(options: TpmOptions = {}) {
    this.tpm = new Tpm({ ...options, onFailure: (e) => (this.failure = e) });
  }
  startup(type: number = SU.CLEAR): this {
    this.ok('Startup', { startupType: type });
    return this;
  }
  raw(bytes: Buffer): Buffer {
    return execute(this.tpm, bytes);
  }
  /** The response code. */
  rc<N extends CommandName>(name: N, input: In<N>, ...passwords: string[]): number {
    return rcOf(this.raw(commandBytes(name, input, ...passwords)));
  }
  /** The results; throws unless the command succeeds. */
  ok<N extends CommandName>(name: N, input: In<N>, ...passwords: string[]): Out<N> {
    const response = this.raw(commandBytes(name, input, ...passwords));
    const rc = rcOf(response);
    if (rc !== RC.SUCCESS)
      throw new Error(`${name}: response code 0x${rc.toString(16)} ${this.failure ?? ''}`);
    return parseResponse(name, response);
  }

  /** A primary object of the owner. */
  primary(pub: PublicArea, auth = ''): number {
    return this.ok('CreatePrimary', {
      primaryHandle: RH.OWNER,
      inSensitive: { userAuth: Buffer.from(auth), data: none },
      inPublic: pub,
      outsideInfo: none,
      creationPCR: [],
    }).handle;
  }
}

const fixed = OA.fixedTPM | OA.fixedParent | OA.sensitiveDataOrigin | OA.userWithAuth;
const parms = {
  symmetric: nullSym,
  scheme: nullScheme,
  keyBits: 0,
  exponent: 0,
  curveID: 3,
  kdf: nullScheme,
};
const publicOf = (type: number, attributes: number, parameters: Partial<typeof parms>): PublicArea => ({
  type,
  nameAlg: ALG.SHA256,
  objectAttributes: fixed | attributes,
  authPolicy: none,
  parameters: { ...parms, ...parameters },
  unique: { x: none, y: none },
});
const aes = { algorithm: ALG.AES, keyBits: 128, mode: ALG.CFB };
export const templates = {
  storage: publicOf(ALG.ECC, OA.restricted | OA.decrypt | OA.noDA, { symmetric: aes }),
  signer: publicOf(ALG.ECC, OA.sign | OA.noDA, {}),
  attester: publicOf(ALG.ECC, OA.sign | OA.restricted | OA.noDA, {
    scheme: { ...nullScheme, scheme: ALG.ECDSA, hashAlg: ALG.SHA256 },
  }),
  rsa: publicOf(ALG.RSA, OA.sign | OA.decrypt | OA.noDA, { keyBits: 1024 }),
};
