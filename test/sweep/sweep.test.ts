/**
 * A sample of the crash sweep (`npm run sweep` is the whole): SeaBIOS and Linux while their device processes die, in turn
 * at each place of an exit's life; and the proof that the comparison would tell.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Guest, linuxLive, seabios, seabiosAhci, seabiosTpm } from './guests.ts';
import { compare, killRule, mixedRules, type Run, runGuest } from './sweep.ts';

const runDir = mkdtempSync(join(tmpdir(), 'nyx-sweep-run-'));
process.env.XDG_RUNTIME_DIR = runDir;
afterAll(() => rmSync(runDir, { recursive: true, force: true }));
/** Another one, another sample. */
const first = 1 + (Number(process.env.NYX_SEED) % 89);

const guests: [Guest | undefined, number][] = [
  [seabios, 89],
  [seabiosTpm, 197],
  [seabiosAhci, 101],
  [
    await linuxLive().catch((e: Error) => {
      console.warn(`the sweep of Linux is left out, there is no image: ${e.message}`);
      return undefined;
    }),
    61,
  ],
];

for (const [guest, stride] of guests) {
  describe.runIf(guest)(`the crash sweep of ${guest?.name}`, () => {
    let base: Run;
    beforeAll(async () => {
      base = await runGuest(guest!, []);
    }, 180_000);

    test('what the guest sees does not differ', async () => {
      const run = await runGuest(guest!, mixedRules(first, stride));
      expect(compare(guest!, base, run)).toEqual([]);
      expect(run.kills).toBeGreaterThan(25);
      // Killed after the handler and before the commit, an exit is executed by the successor.
      expect(run.transcript.repeated).toBeGreaterThan(3);
    }, 180_000);

    if (guest === seabios)
      test('nor does a machine whose device process dies with the power', async () => {
        const last = base.transcript.exitsOf.get('platform')!;
        const run = await runGuest(guest, [{ ...killRule('done', last, 1), device: 'platform' }]);
        expect(run.kills).toBe(1);
        expect(compare(guest, base, run)).toEqual([]);
      }, 180_000);

    if (guest === seabios)
      test('an exit that is executed twice would be found', async () => {
        const run = await runGuest(guest, [
          { point: 'exit', verb: 'duplicate', device: 'debugcon', type: 'write', after: 100, count: 1 },
        ]);
        expect(compare(guest, base, run).join('\n')).toMatch(/^console: byte/m);
      }, 180_000);

    if (guest === seabios)
      test('a wrong answer would be found', async () => {
        const run = await runGuest(guest, [
          {
            point: 'reply',
            verb: 'corrupt',
            device: 'mch',
            type: 'configRead',
            offset: 2,
            mask: 1,
            count: 1,
          },
        ]);
        expect(compare(guest, base, run).join('\n')).toMatch(/^mch configRead 0\+0x2: access 1 /m);
      }, 180_000);
  });
}
