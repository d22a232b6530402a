/**
 * The supervisor of a machine with one of everything dies: CD and disk at AHCI, a TPM, a disk of an NBD server, one of a
 * vhost-user back-end, one whose files and whose build were changed while it ran. The next one has it all.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { forceStop, Vm } from '@nyx/nyx';
import { list } from '@nyx/nyx/rundir';
import { afterAll, describe, expect, test } from 'vitest';
import { generic, scratch, until } from './setup.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const storage = join(root, 'services/storage/dist/storage.cjs');
const MiB = 1 << 20;
const nbd = spawnSync('qemu-nbd', ['--version']).status === 0;
if (!nbd) console.warn('a disk of an NBD server is left out: qemu-nbd is not installed');

const children: ChildProcess[] = [];
afterAll(async () => {
  for (const i of list()) forceStop(i);
  for (const c of children) c.kill('SIGKILL');
});

/** A file of so many random MiB, by which the guest can tell it from others. */
const filled = (name: string, size: number): { path: string; sum: string; sectors: number } => {
  const bytes = randomBytes(size * MiB);
  const path = join(scratch, name);
  writeFileSync(path, bytes);
  return { path, sum: createHash('sha256').update(bytes).digest('hex'), sectors: (size * MiB) / 512 };
};
const listening = async (socket: string, program: string, ...args: string[]): Promise<void> => {
  children.push(spawn(program, args, { stdio: 'ignore' }));
  await until(async () => (existsSync(socket) ? true : undefined));
};

const patience = { timeout: 120 };
const run = async (vm: Vm, command: string): Promise<string> =>
  (await vm.exec(command, patience)).stdout.toString().trim();
const supervisor = (name: string): number =>
  list()
    .find((i) => i.name === name)
    ?.pids.find((p) => p.role === 'nyxd')?.pid ?? 0;

/** Kills the supervisor; the machine by the next one, when every place is filled. */
const adopted = async (vm: Vm): Promise<Vm> => {
  const { name } = vm;
  const old = supervisor(name);
  process.kill(old, 'SIGKILL');
  vm.close();
  return until(async () => {
    const pid = supervisor(name);
    if (pid === 0 || pid === old) return undefined;
    const next = Vm.connect(name);
    const s = await next.status().catch(() => undefined);
    if (s && s.pid !== old && s.processes.every((p) => p.state === 'serving')) return next;
    next.close();
    return undefined;
  }, 120);
};

describe.runIf(generic)('adoption of a machine with one of everything', () => {
  test('nothing is lost, and everything can be killed, changed and asked as before', async () => {
    const cd = filled('cd.iso', 3);
    const other = filled('other.iso', 2);
    const sata = filled('sata.img', 5);
    const remote = filled('nbd.img', 6);
    const shared = filled('vhost.img', 7);
    const plain = filled('plain.img', 9);
    const [nbdSocket, vhostSocket] = [join(scratch, 'nbd.sock'), join(scratch, 'vhost.sock')];
    if (nbd)
      await listening(nbdSocket, 'qemu-nbd', '-t', '-f', 'raw', '-x', 'd', '-k', nbdSocket, remote.path);
    const nyx = join(root, 'bin/nyx');
    const serve = ['storage', 'serve', '--socket', vhostSocket, shared.path];
    await listening(vhostSocket, process.execPath, nyx, ...serve);

    let vm = await Vm.start({
      name: 'all',
      image: 'debian-generic',
      accel: 'soft',
      memory: '256M',
      tpm: { model: 'crb' },
      cdroms: [cd.path],
      disks: [
        { path: plain.path },
        { path: sata.path, bus: 'ahci' },
        ...(nbd ? [{ path: `nbd+unix:///d?socket=${nbdSocket}` }] : []),
      ],
      vhostUser: [{ socket: vhostSocket }],
    });
    const { launched } = vm;
    const { vcpuPid } = await vm.status();
    /** The guest's name of a disk, by its size. */
    const named = (sectors: number): Promise<string> =>
      run(
        vm,
        `for i in $(seq 100); do for d in /sys/block/*/size; do
        [ "$(cat $d)" = ${sectors} ] && { basename $(dirname $d); exit; }; done; sleep 0.1; done`,
      );
    const same = async (disk: { sum: string; sectors: number }): Promise<void> => {
      const dev = `/dev/${await named(disk.sectors)}`;
      const read = `dd if=${dev} bs=64k iflag=direct 2>/dev/null | sha256sum | cut -d' ' -f1`;
      expect(await run(vm, read), dev).toBe(disk.sum);
    };
    const all = [plain, sata, shared, ...(nbd ? [remote] : [])];
    const everything = async (medium: typeof cd): Promise<void> => {
      for (const disk of [...all, medium]) await same(disk);
    };
    const pcr = (): Promise<string> => run(vm, 'cat /sys/class/tpm/tpm0/pcr-sha256/4');
    const extend = (): Promise<string> => run(vm, 'cat /sys/class/tpm/tpm0/pcr-sha256/10');

    await everything(cd);
    const measured = [await pcr(), await extend()];
    const before = await run(vm, 'dmesg | grep -iE "error|hung|stall|BUG|timed out" || true');
    const names = (await vm.status()).processes.map((p) => p.name);
    expect(names).toEqual(expect.arrayContaining(['platform', 'ahci', 'tpm', 'blk0-vhost']));

    // Changed while it ran: another build of a program, another chain of files, another medium.
    const upgraded = (await vm.disks()).find((d) => d.chain.includes(plain.path))!.name;
    await vm.upgrade(upgraded, storage);
    await vm.snapshotDisk(upgraded, { path: join(scratch, 'layer.qcow2') });
    await vm.insertCd(other.path, undefined, true);
    await run(vm, 'for i in $(seq 50); do blockdev --rereadpt /dev/sr0 2>/dev/null; sleep 0.1; done; true');

    // Under way while it dies: a command of somebody, and writes.
    const lost = vm.exec('sleep 3; echo of the one before', patience).catch((e) => e);
    await new Promise((r) => setTimeout(r, 500));
    vm = await adopted(vm);
    expect(await lost).toMatchObject({ code: 'EXEC_LOST' });
    expect(await run(vm, 'echo mine')).toBe('mine');

    expect(await vm.status()).toMatchObject({ state: 'running', vcpuPid, resets: 0 });
    await everything(other);
    expect([await pcr(), await extend()]).toEqual(measured);
    expect((await vm.disks()).find((d) => d.name === upgraded)!.chain).toHaveLength(2);
    expect((await vm.cds())[0]).toMatchObject({ path: other.path });

    // Whoever dies now is followed by one that the new supervisor gives everything.
    for (const name of names) {
      const { restarts } = (await vm.status()).processes.find((p) => p.name === name)!;
      await vm.kill(name);
      await until(async () => {
        const p = (await vm.status()).processes.find((x) => x.name === name)!;
        return p.restarts > restarts && p.state === 'serving' ? true : undefined;
      }, 60);
    }
    await run(vm, 'echo 3 >/proc/sys/vm/drop_caches');
    await everything(other);
    expect([await pcr(), await extend()]).toEqual(measured);
    const dev = `/dev/${await named(plain.sectors)}`;
    expect(
      await run(
        vm,
        `echo of the second >/tmp/x; dd if=/tmp/x of=${dev} conv=sync,fsync 2>/dev/null; head -c 13 ${dev}`,
      ),
    ).toBe('of the second');
    // And once more: what the second kept is as good as what the first did.
    await vm.commitDisk(upgraded);
    vm = await adopted(vm);
    expect(await run(vm, `head -c 13 ${dev}`)).toBe('of the second');
    expect((await vm.disks()).find((d) => d.name === upgraded)!.chain).toHaveLength(1);
    expect(await run(vm, 'dmesg | grep -iE "error|hung|stall|BUG|timed out" || true')).toBe(before);
    await vm.stop(30);
    await launched!.ended;
    vm.close();
  }, 480_000);
});
