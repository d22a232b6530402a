/**
 * A disk whose program was taken over: it serves until the guest writes to it, then does what its serial number names. What
 * it finds is in its log as `attack NAME: OUTCOME`. services/supervisor/src/hostile.test.ts bundles and runs it in a machine.
 */
import { spawnSync } from 'node:child_process';
import { openSync, readdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AnyDeviceKind, DeviceContext } from '@nyx/device';
import { serveDevices } from '@nyx/device';
import { eventfdWrite, fileSize, futexWake, memfdCreate, mmap, pidfdOpen, socketpair } from '@nyx/native';
import { ProcessControl, wire } from '@nyx/ring';
import { type BlockDriver, BlockOp } from '../block/block.ts';
import { RawDisk } from '../block/raw.ts';
import { syscalls } from '../syscalls.ts';
import { type BlkConfig, virtioBlk } from '../virtio-blk/device.ts';

type Say = (name: string, outcome: unknown) => void;

const attempt = (f: () => unknown): string => {
  try {
    return `did it ${f() ?? ''}`.trim();
  } catch (e) {
    return (e as { code?: string }).code ?? (e as Error).message;
  }
};

/** Shared memory that this process holds, by its descriptors: what a taken-over process would scribble on. */
const everything = (write: boolean): { fd: number; memory: ArrayBuffer }[] => {
  const found: { fd: number; memory: ArrayBuffer }[] = [];
  for (let fd = 4; fd < 1024; fd++) {
    try {
      const bytes = fileSize(fd);
      if (bytes > 0) found.push({ fd, memory: mmap(fd, bytes, { write }) });
    } catch {}
  }
  return found;
};

/** The memory whose first word is `magic`. */
const byMagic = (magic: number): Uint32Array | undefined =>
  everything(true)
    .map((m) => new Uint32Array(m.memory, 0, Math.floor(Math.min(m.memory.byteLength, 2 ** 24) / 4)))
    .find((words) => words[0] === magic);

const attacks: Record<string, (say: Say) => void> = {
  probe(say) {
    say(
      'open a file',
      attempt(() => openSync('/etc/passwd', 'r')),
    );
    say(
      'write a file',
      attempt(() => writeFileSync('/tmp/x', 'x')),
    );
    say(
      'list the root',
      attempt(() => readdirSync('/').join()),
    );
    say(
      'run a program',
      attempt(() => {
        const { error } = spawnSync('/bin/true');
        if (error) throw error;
      }),
    );
    say(
      'signal the supervisor',
      attempt(() => process.kill(process.ppid || 2, 0)),
    );
    say(
      'signal a sibling',
      attempt(() => process.kill(2, 9)),
    );
    say(
      'look for processes',
      attempt(() => pidfdOpen(2)),
    );
    say(
      'make memory',
      attempt(() => memfdCreate('x', 4096)),
    );
    say(
      'make a socket',
      attempt(() => socketpair()),
    );
    say(
      'set the guest clock',
      attempt(() => {
        const page = everything(false).find((m) => new Uint32Array(m.memory, 0, 1)[0] === wire.vmMagic);
        return page ? mmap(page.fd, page.memory.byteLength) : 'not: it has no VM page';
      }),
    );
    const server = createServer();
    server.on('error', (e) => say('reach the network', (e as { code?: string }).code));
    server.listen(0, '127.0.0.1', () => say('reach the network', 'did it'));
    // After libuv has given up its descriptors.
    setTimeout(() => say('done', 'ok'), 50);
  },
  /** Interrupt words, sources that do not exist, addresses that are no local APIC, thousands of times. */
  storm(say) {
    const page = byMagic(wire.irqMagic);
    if (!page) return say('storm', 'no page');
    say('storm', 'begins');
    const end = Date.now() + 1000;
    while (Date.now() < end) {
      for (let i = 16; i < page.length; i++) page[i] = (Math.random() * 2 ** 32) >>> 0;
      for (let fd = 4; fd < 64; fd++) {
        try {
          eventfdWrite(fd);
        } catch {}
      }
    }
    page.fill(0xffffffff);
  },
  /** Replies to requests that were never made, sequences, tails, status bits: garbage in every word. */
  forge(say) {
    const rings = byMagic(wire.ringMagic);
    if (!rings) return say('forge', 'no rings');
    say('forge', 'begins');
    for (let round = 0; round < 200; round++)
      for (let i = 1; i < rings.length; i++) rings[i] = (Math.random() * 2 ** 32) >>> 0;
  },
  /** Never answers again. */
  hang(say) {
    say('hang', 'begins');
    for (;;);
  },
  /** Garbage in both halves of its state, and dies: no successor can go on from that. */
  ruin(say) {
    const block = byMagic(wire.blockMagic);
    if (!block) return say('ruin', 'no state');
    say('ruin', 'begins');
    block.fill(0xa5a5a5a5, wire.halvesAt / 4);
    process.exit(1);
  },
  /** Says that it is dead, as only the kernel should, and serves on. */
  lie(say) {
    const rings = byMagic(wire.ringMagic);
    if (!rings) return say('lie', 'no rings');
    say('lie', 'begins');
    const at = ProcessControl.offsetOf('holder');
    rings[at >> 2] = 0xc0000000;
    futexWake(rings.buffer as ArrayBuffer, at, 100);
  },
  memory(say) {
    say('memory', 'begins');
    const held: Uint8Array[] = [];
    for (;;) held.push(new Uint8Array(64 << 20).fill(1));
  },
};

let began = false;
const hostile = virtioBlk((ctx, config: BlkConfig) => {
  const { readOnly = false, size } = config;
  return (memory, completed): BlockDriver => {
    const disk = new RawDisk(
      { fd: ctx.fd('file'), readOnly, ...(size === undefined ? {} : { size }) },
      memory,
      completed,
    );
    const submit = disk.submit.bind(disk);
    disk.submit = (r) => {
      submit(r);
      if (r.op !== BlockOp.write || began) return;
      began = true;
      const { serial } = config as { serial?: string };
      const say: Say = (name, outcome) => (ctx as DeviceContext).log('warn', `attack ${name}: ${outcome}`);
      setTimeout(() => attacks[serial ?? '']?.(say), 20);
    };
    return disk;
  };
});

serveDevices([hostile as AnyDeviceKind], syscalls);
