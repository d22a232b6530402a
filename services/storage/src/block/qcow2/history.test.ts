/**
 * Images with a history: QEMU and we change the same image in turn - writes, zeroes, discards, snapshots, sizes - and after each
 * turn both checks are clean and every byte of the disk and of its snapshots is what it should be. NYX_FUZZ_SECONDS makes it
 * longer, NYX_SEED begins elsewhere; a failure names its seed and its history.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { checkImage, resize, snapshot } from '../../tool/commands.ts';
import { chainOf } from '../../tool/open.ts';
import { hostIo } from '../host.ts';
import { Rig, random } from '../testing/rig.ts';
import { Qcow2Disk } from './disk.ts';

const qemu = spawnSync('qemu-img', ['--version']).status === 0;
if (!qemu) console.warn('skipped: images that QEMU and we change in turn, qemu-img is not installed');
const seconds = Number(process.env.NYX_FUZZ_SECONDS ?? 0);
const first = seconds > 0 ? Number(process.env.NYX_SEED) : 1;
/** Without more time: so many histories. */
const FEW = 4;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'nyx-history-'));
});
afterAll(() => rmSync(folder, { recursive: true }));
const at = (name: string): string => join(folder, name);
const img = (...args: string[]): string =>
  execFileSync('qemu-img', args, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
/** Commands that QEMU itself refuses - a compressed cluster where there is one - change nothing. */
const io = (file: string, commands: string[]): void =>
  void spawnSync('qemu-io', ['-f', 'qcow2', ...commands.flatMap((c) => ['-c', c]), file], { cwd: folder });
const flat = (...of: string[]): Buffer => {
  img('convert', ...of, '-f', 'qcow2', '-O', 'raw', 'top', 'flat');
  return readFileSync(at('flat'));
};

function history(seed: number, log: string[]): void {
  const rand = random(seed * 7919 + 1);
  rand(2);
  const pick = <T>(of: readonly T[]): T => of[rand(of.length)]!;
  for (const f of ['top', 'base', 'middle']) rmSync(at(f), { force: true });
  const v3 = rand(5) > 0;
  const extended = v3 && rand(3) === 0;
  const cluster = pick(extended ? [14, 15, 16, 17, 21] : [9, 10, 11, 12, 13, 16, 20, 21]);
  const bits = v3 ? pick([1, 8, 16, 32, 64]) : 16;
  let sectors = 2000 + rand(6000);
  const below = pick(['', 'base', 'middle']);
  writeFileSync(at('base'), Buffer.alloc((2000 + rand(6000)) * 512, 0xaa));
  img('create', '-q', '-f', 'qcow2', '-b', 'base', '-F', 'raw', 'middle', String((2000 + rand(6000)) * 512));
  io('middle', ['write -P 3 100k 300k', 'discard 200k 64k']);
  const options = [`compat=${v3 ? '1.1' : '0.10'}`, `cluster_size=${2 ** cluster}`, `refcount_bits=${bits}`];
  if (extended) options.push('extended_l2=on');
  if (v3 && rand(2)) options.push('compression_type=zstd');
  if (v3 && rand(4) === 0) options.push('lazy_refcounts=on');
  if (below === '' && rand(2)) options.push(`preallocation=${pick(['metadata', 'falloc', 'full'])}`);
  log.push(`${options.join(',')} over ${below || 'nothing'}`);
  const over = below === '' ? [] : ['-b', below, '-F', below === 'base' ? 'raw' : 'qcow2'];
  img('create', '-q', '-f', 'qcow2', '-o', options.join(','), ...over, 'top', String(sectors * 512));
  const whole = Math.floor((sectors * 512) / 2 ** cluster);
  if (rand(2) && whole > 0)
    io(
      'top',
      Array.from(
        { length: 8 },
        () => `write -c -P ${1 + rand(255)} ${rand(whole) * 2 ** cluster} ${2 ** cluster}`,
      ),
    );
  let model = flat();
  const snapshots = new Map<string, Buffer>();
  for (let turn = 0; turn < 8; turn++) {
    const what = rand(9);
    log.push(`turn ${turn}: ${what}`);
    if (what <= 3) {
      const chain = chainOf(at('top'), 'qcow2');
      const fds = chain.map((l, i) => openSync(l.path, i ? 'r' : 'r+'));
      const files = fds.map((fd, i) => ({ fd, qcow2: chain[i]!.format === 'qcow2' }));
      const rig = new Rig();
      rig.open((m, done) => new Qcow2Disk(hostIo, { files, discard: rand(4) > 0 }, m, done));
      rig.work(model, rand(2 ** 30), 12, 400);
      expect(Buffer.compare(rig.all(), model), 'what we read').toBe(0);
      rig.disk.close();
      fds.forEach(closeSync);
    } else if (what === 4) {
      const commands = Array.from({ length: 6 }, () => {
        const sector = rand(sectors - 1);
        const n = Math.min(1 + rand(300), sectors - sector);
        return `${pick(['write -P 9', 'write -z', 'write -zu', 'discard'])} ${sector * 512} ${n * 512}`;
      });
      io('top', commands);
      model = flat();
    } else if (what === 5 && bits >= 8) {
      const name = `s${turn}`;
      if (bits === 8 || rand(2)) img('snapshot', '-c', name, 'top');
      else snapshot({ path: at('top'), action: 'create', name });
      snapshots.set(name, Buffer.from(model));
    } else if ((what === 6 || what === 7) && snapshots.size > 0) {
      const name = pick([...snapshots.keys()]);
      if (what === 6 && snapshots.get(name)!.length !== model.length) continue;
      if (rand(2)) img('snapshot', what === 6 ? '-a' : '-d', name, 'top');
      else snapshot({ path: at('top'), action: what === 6 ? 'apply' : 'delete', name });
      if (what === 6) model = Buffer.from(snapshots.get(name)!);
      else snapshots.delete(name);
    } else if (what === 8) {
      const more = rand(3000);
      // QEMU cannot hide what lies below without zero clusters.
      if (v3 && rand(2)) img('resize', '-q', '-f', 'qcow2', 'top', `+${more * 512}`);
      else resize({ path: at('top'), size: more * 512, relative: true });
      sectors += more;
      model = Buffer.concat([model, Buffer.alloc(more * 512)]);
    }
    img('check', '-q', 'top');
    expect(checkImage({ path: at('top'), repair: 'none' })).toMatchObject({
      leaks: 0,
      corruptions: 0,
      flags: 0,
    });
    expect(Buffer.compare(flat(), model), 'what QEMU reads').toBe(0);
    for (const [name, then] of snapshots)
      expect(Buffer.compare(flat('-l', name).subarray(0, then.length), then), name).toBe(0);
  }
}

it.runIf(qemu)('QEMU and we in turn', { timeout: seconds * 1000 + 200_000 }, () => {
  const end = Date.now() + seconds * 1000;
  let seed = first;
  for (; Date.now() < end || seed < first + FEW; seed++) {
    const log: string[] = [];
    try {
      history(seed, log);
    } catch (e) {
      throw new Error(`seed ${seed}: ${(e as Error).message}\n${log.join('\n')}`, { cause: e });
    }
  }
  console.log(`${seed - first} histories from seed ${first}`);
});
