/**
 * vhost-user in both directions with real partners: our guest on our back-end and on qemu-storage-daemon, QEMU's guest on
 * our back-end; and each back-end is killed under load, again and again. No guest may see an error, or wrong bytes.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ImageStore } from '@nyx/image';
import { vmTest } from '@nyx/testkit';
import { afterAll, afterEach, describe, expect } from 'vitest';

process.env.XDG_RUNTIME_DIR = mkdtempSync(join(tmpdir(), 'nyx-vhost-'));
const folder = process.env.XDG_RUNTIME_DIR;
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const nyx = fileURLToPath(new URL('../bin/nyx', import.meta.url));
const socket = join(folder, 'disk.sock');

const image = await new ImageStore().build('debian').catch((e: Error) => {
  console.warn(`tests of vhost-user are left out, there is no image: ${e.message}`);
  return undefined;
});
const installed = (program: string, why: string): boolean => {
  const there = spawnSync(program, ['--version']).status === 0;
  if (!there) console.warn(`${why} is left out: ${program} is not installed`);
  return there;
};
const hasDaemon = installed('qemu-storage-daemon', 'a guest on a foreign back-end');
const hasQemu = installed('qemu-system-x86_64', 'a foreign guest on our back-end');

const test = vmTest({
  ...(image ? { kernel: image.vmlinux, initrd: image.initrd, append: image.cmdline } : {}),
  memory: '128M',
  vhostUser: [{ socket }],
});

const sleep = (ms: number): Promise<void> => new Promise((r) => setTimeout(r, ms));
const children: ChildProcess[] = [];
const end = async (child: ChildProcess, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> => {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const over = new Promise((r) => child.once('exit', r));
  child.kill(signal);
  await over;
};
afterEach(async () => {
  for (const c of children.splice(0)) await end(c);
  rmSync(socket, { force: true });
});
const start = (program: string, args: string[]): ChildProcess => {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  children.push(child);
  return child;
};

const blank = (name: string, bytes: number): string => {
  const path = join(folder, name);
  writeFileSync(path, '');
  truncateSync(path, bytes);
  return path;
};
const listening = async (): Promise<void> => {
  for (let n = 0; !existsSync(socket); n++) {
    if (n > 400) throw new Error('nobody listens');
    await sleep(25);
  }
};

/** `nyx storage serve`, and how to kill the process that serves. */
async function ours(path: string): Promise<() => void> {
  const child = start(process.execPath, [nyx, 'storage', 'serve', '--socket', socket, path]);
  let said = '';
  child.stderr!.on('data', (b: Buffer) => {
    said += b.toString();
  });
  for (let n = 0; !said.includes('by process'); n++) {
    if (n > 400) throw new Error(`it does not serve: ${said}`);
    await sleep(25);
  }
  return () => process.kill(Number([...said.matchAll(/by process (\d+)/g)].at(-1)![1]), 'SIGKILL');
}

/** Writes and reads with direct I/O, several at once, and compares. */
const load = (disk: string, rounds: number): string => `
bad=0; i=0; dd if=/dev/urandom of=/tmp/r bs=64k count=16 2>/dev/null
while [ $i -lt ${rounds} ]; do
  dd if=/tmp/r of=${disk} bs=8k seek=$((i%8*128)) oflag=direct conv=notrunc 2>/dev/null || bad=write
  dd if=${disk} of=/dev/null bs=4k count=128 iflag=direct 2>/dev/null &
  dd if=${disk} of=/tmp/b bs=64k skip=$((i%8*16)) count=16 iflag=direct 2>/dev/null || bad=read
  wait; cmp /tmp/r /tmp/b || bad=compare; i=$((i+1))
done
sync; dmesg | grep -iE "I/O error|timed out|blocked" && bad=log
echo "over bad=$bad"`;

describe.skipIf(!image)('vhost-user', () => {
  test('our guest on our back-end: back-end and front-end die under load', { timeout: 240_000 }, async ({
    boot,
  }) => {
    const kill = await ours(blank('ours.img', 16 << 20));
    const vm = await boot();
    const size = await vm.run('cat /sys/block/vda/size; cat /sys/block/vda/serial');
    expect(size.stdout).toBe('32768\nnyx-storage');
    const running = vm.run(load('/dev/vda', 30), 180);
    let over = false;
    void running.finally(() => {
      over = true;
    });
    let deaths = 0;
    for (; deaths < 6 && !over; deaths++) {
      await sleep(700);
      if (over) break;
      if (deaths % 2 === 0) kill();
      else await vm.kill('blk0-vhost');
    }
    expect((await running).stdout).toBe('over bad=0\n');
    expect(deaths).toBeGreaterThan(1);
  });

  test.skipIf(!hasDaemon)(
    'our guest on qemu-storage-daemon, which dies under load',
    { timeout: 240_000 },
    async ({ boot }) => {
      const path = blank('theirs.img', 16 << 20);
      const daemon = async (): Promise<ChildProcess> => {
        rmSync(socket, { force: true });
        const child = start('qemu-storage-daemon', [
          ...['--blockdev', `driver=file,node-name=d,filename=${path}`],
          '--export',
          `type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path=${socket},writable=on`,
        ]);
        await listening();
        return child;
      };
      let child = await daemon();
      const vm = await boot();
      const running = vm.run(load('/dev/vda', 24), 180);
      let over = false;
      void running.finally(() => {
        over = true;
      });
      let deaths = 0;
      for (; deaths < 4 && !over; deaths++) {
        await sleep(600);
        if (over) break;
        await end(child, 'SIGKILL');
        await sleep(100);
        child = await daemon();
      }
      expect((await running).stdout).toBe('over bad=0\n');
      expect(deaths).toBeGreaterThan(1);
      expect(
        readFileSync(path)
          .subarray(0, 8192)
          .some((b) => b !== 0),
      ).toBe(true);
    },
  );

  test.skipIf(!hasQemu)(
    'a guest of QEMU on our back-end, which dies under load',
    { timeout: 300_000 },
    async () => {
      const kill = await ours(blank('qemu.img', 16 << 20));
      // Its script is a disk of its own: a serial console has no patience with long lines.
      const script = join(folder, 'script');
      const lines = `${load('/dev/vda', 12)}\nexit\n`;
      writeFileSync(script, lines.padEnd(Math.ceil(lines.length / 512) * 512, '\n'));
      const qemu = start('qemu-system-x86_64', [
        ...['-accel', 'tcg', '-nodefaults', '-nographic', '-no-reboot', '-m', '256M', '-smp', '2'],
        ...[
          '-object',
          'memory-backend-memfd,id=ram,size=256M,share=on',
          '-machine',
          'q35,memory-backend=ram',
        ],
        ...[
          '-chardev',
          `socket,id=d,path=${socket},reconnect=1`,
          '-device',
          'vhost-user-blk-pci,chardev=d,addr=4',
        ],
        ...['-blockdev', `driver=file,filename=${script},node-name=s`],
        ...['-device', 'virtio-blk-pci,drive=s,addr=5'],
        ...[
          '-serial',
          'stdio',
          '-kernel',
          image!.kernel,
          '-initrd',
          image!.initrd,
          '-append',
          'console=ttyS0 quiet',
        ],
      ]);
      let console_ = '';
      qemu.stdout!.on('data', (b: Buffer) => {
        console_ += b.toString();
      });
      const wait = async (text: string | RegExp, seconds: number): Promise<void> => {
        for (let n = 0; !(typeof text === 'string' ? console_.includes(text) : text.test(console_)); n++) {
          if (n > seconds * 20) throw new Error(`no ${text}: ${console_.slice(-500)}`);
          await sleep(50);
        }
      };
      await wait("'exit' powers off", 120);
      qemu.stdin!.write('sh /dev/vdb\n');
      let deaths = 0;
      for (; deaths < 5 && !/over bad=\w/.test(console_); deaths++) {
        await sleep(1500);
        kill();
      }
      await wait(/over bad=\w+\r?\n/, 150);
      expect(/over bad=(\w+)\r?\n/.exec(console_)![1]).toBe('0');
      expect(deaths).toBeGreaterThan(1);
    },
  );
});
