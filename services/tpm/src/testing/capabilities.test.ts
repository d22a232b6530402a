/** What our TPM says that it can do, beside what swtpm says of libtpms. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { TpmHost } from '../server/host.ts';
import { CAP } from '../spec/constants.ts';
import { commandBytes, parseResponse, rcOf } from './client.ts';
import { SwtpmPeer } from './swtpm-peer.ts';

const swtpm = spawnSync('which', ['swtpm']).status === 0;
if (!swtpm) process.stdout.write('swtpm is not installed (apt: swtpm): capabilities are not compared\n');

type Raw = (bytes: Buffer) => Promise<Buffer>;
/** All values of a capability, `key` of each being its number. */
async function all(raw: Raw, capability: number, key: (v: never) => number): Promise<Map<number, unknown>> {
  const out = new Map<number, unknown>();
  for (let property = 0; ; ) {
    const response = await raw(commandBytes('GetCapability', { capability, property, propertyCount: 256 }));
    expect(rcOf(response)).toBe(0);
    const { moreData, capabilityData } = parseResponse('GetCapability', response);
    const list = capabilityData.data.list as never[];
    for (const v of list) out.set(key(v), v);
    if (!moreData || list.length === 0) return out;
    property = key(list.at(-1) as never) + 1;
  }
}
const codeOf = (attributes: number): number => attributes & 0x2000ffff;

/**
 * What libtpms has and we have not. BN curves: OpenSSL has them not, and multiplication of our own would tell keys by its time.
 * TDES is withdrawn (SP 800-131A, revision 2).
 */
const withoutAlgorithms = { TDES: 0x03 };
const withoutCurves = { BN_P256: 0x10, BN_P638: 0x11 };

test.skipIf(!swtpm)(
  'commands are all of libtpms, with the same attributes; algorithms and curves but those of the list',
  async () => {
    const host = new TpmHost({});
    host.powerOn();
    host.startupClear();
    const ours: Raw = (bytes) => Promise.resolve(host.command(bytes, 0)!);
    const dir = mkdtempSync(join(tmpdir(), 'tpm-cap-'));
    const peer = await new SwtpmPeer(dir).start();
    const theirs: Raw = (bytes) => peer.raw(bytes);
    try {
      const commands = (raw: Raw) => all(raw, CAP.COMMANDS, codeOf);
      const [a, b] = [await commands(ours), await commands(theirs)];
      expect(a.size).toBeGreaterThan(100);
      expect(a).toEqual(b);

      const algorithms = (raw: Raw) => all(raw, CAP.ALGS, (v: { alg: number }) => v.alg);
      const [c, d] = [await algorithms(ours), await algorithms(theirs)];
      expect([...d.keys()].filter((x) => !c.has(x))).toEqual(Object.values(withoutAlgorithms));
      for (const [alg, v] of c) expect(d.get(alg), alg.toString(16)).toEqual(v);

      const curves = (raw: Raw) => all(raw, CAP.ECC_CURVES, (v: number) => v);
      const [e, f] = [await curves(ours), await curves(theirs)];
      expect([...f.keys()].filter((x) => !e.has(x))).toEqual(Object.values(withoutCurves));
      for (const curve of e.keys()) expect(f.has(curve), curve.toString(16)).toBe(true);
    } finally {
      peer.close();
      rmSync(dir, { recursive: true, force: true });
    }
  },
  60_000,
);
