/** Signatures and key exchanges of which node:crypto knows nothing: what our TPM makes swtpm takes, and the other way round. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { curveIds } from '../spec/algorithms.ts';
import { ALG, CURVE, OA, RH } from '../spec/constants.ts';
import { nullScheme, type PublicArea } from '../spec/types.ts';
import { templates } from './client.ts';
import type { Peer } from './corpus.ts';
import { Ours } from './differential.ts';
import { SwtpmPeer } from './swtpm-peer.ts';

const swtpm = spawnSync('which', ['swtpm']).status === 0;
if (!swtpm) process.stdout.write('swtpm is not installed (apt: swtpm): nobody to exchange keys with\n');

const none = Buffer.alloc(0);
const onCurve = (curveID: number, attributes: number): PublicArea => ({
  ...templates.signer,
  objectAttributes: (templates.signer.objectAttributes & ~OA.sign) | attributes,
  parameters: { ...templates.signer.parameters, curveID },
});
const primary = (p: Peer, inPublic: PublicArea) =>
  p.ok('CreatePrimary', {
    primaryHandle: RH.OWNER,
    inSensitive: { userAuth: none, data: none },
    inPublic,
    outsideInfo: none,
    creationPCR: [],
  });

/** Both TPMs, started. */
async function both(f: (ours: Peer, theirs: Peer) => Promise<void>): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'tpm-exchange-'));
  const theirs = await new SwtpmPeer(dir).start();
  try {
    await f(new Ours(), theirs);
  } finally {
    theirs.close();
    rmSync(dir, { recursive: true, force: true });
  }
}

test.skipIf(!swtpm)(
  'SM2 and ECDSA on the curves of both, with digests of every length',
  () =>
    both(async (ours, theirs) => {
      const sizes: [number, number][] = [
        [ALG.SHA1, 20],
        [ALG.SHA256, 32],
        [ALG.SHA512, 64],
      ];
      for (const [signer, verifier] of [
        [ours, theirs],
        [theirs, ours],
      ] as const)
        for (const curve of [CURVE.P256, CURVE.P384, CURVE.SM2_P256])
          for (const scheme of [ALG.SM2, ALG.ECDSA])
            for (const [hashAlg, bytes] of sizes) {
              const key = await primary(signer, onCurve(curve, OA.sign));
              const digest = Buffer.alloc(bytes, 0xe1);
              const { signature } = await signer.ok('Sign', {
                keyHandle: key.handle,
                digest,
                inScheme: { ...nullScheme, scheme, hashAlg },
                validation: { tag: 0x8024, hierarchy: RH.NULL, digest: none },
              });
              const loaded = await verifier.ok('LoadExternal', {
                inPrivate: undefined,
                inPublic: key.outPublic,
                hierarchy: RH.NULL,
              });
              const what = { keyHandle: loaded.handle, signature };
              await verifier.ok('VerifySignature', { ...what, digest });
              digest[3]! ^= 1;
              await expect(verifier.ok('VerifySignature', { ...what, digest })).rejects.toThrow('0x2db');
              await verifier.ok('FlushContext', { flushHandle: loaded.handle });
              await signer.ok('FlushContext', { flushHandle: key.handle });
            }
    }),
  60_000,
);

/**
 * swtpm is asked for ECDH alone: by ECMQV it ends in failure mode (TPM_RC_FAILURE for this and for every later command), and in SM2 it
 * cuts x to other bits than GB/T 32918.3 does.
 */
test('two-phase exchanges come to the same secret on both sides', async () => {
  const exchange = async (left: Peer, right: Peer, schemes: readonly number[]): Promise<void> => {
    for (const curve of curveIds)
      for (const inScheme of schemes) {
        const sides = await Promise.all(
          [left, right].map(async (p) => ({
            p,
            key: await primary(p, onCurve(curve, OA.decrypt)),
            ephemeral: await p.ok('EC_Ephemeral', { curveID: curve }),
          })),
        );
        const [a, b] = sides as [(typeof sides)[0], (typeof sides)[0]];
        const z = (own: typeof a, other: typeof a) =>
          own.p.ok('ZGen_2Phase', {
            keyA: own.key.handle,
            inQsB: other.key.outPublic.unique,
            inQeB: other.ephemeral.Q,
            inScheme,
            counter: own.ephemeral.counter,
          });
        const [x, y] = [await z(a, b), await z(b, a)];
        expect(x, `curve ${curve}, scheme ${inScheme}`).toEqual(y);
        expect(x.outZ1.x.length).toBeGreaterThan(20);
        for (const { p, key } of sides) await p.ok('FlushContext', { flushHandle: key.handle });
      }
  };
  await exchange(new Ours(), new Ours(), [ALG.ECDH, ALG.ECMQV, ALG.SM2]);
  if (swtpm) await both((ours, theirs) => exchange(ours, theirs, [ALG.ECDH]));
}, 60_000);
