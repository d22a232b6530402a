/** Against qemu-nbd, and against servers that lie. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { close } from '@nyx/native';
import { connectNbd, parseNbdUri } from '@nyx/protocol/nbd';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { convert } from '../../tool/convert.ts';
import { BlockOp, type BlockRequest, BlockResult } from '../block.ts';
import { Rig, random } from '../testing/rig.ts';
import { NbdDisk } from './disk.ts';

const qemu = spawnSync('qemu-nbd', ['--version']).status === 0;
if (!qemu) console.warn('skipped: the NBD client is not tried with qemu-nbd, which is not installed');

const SIZE = 4 << 20;
let folder: string;
const at = (name: string): string => join(folder, name);
const servers: ChildProcess[] = [];
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'nyx-nbd-'));
});
afterEach(() => {
  for (const s of servers.splice(0)) s.kill('SIGKILL');
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Starts qemu-nbd and waits for it. */
async function serve(args: string[], uri: string): Promise<ChildProcess> {
  const child = spawn('qemu-nbd', ['-t', '-e', '8', '-f', 'raw', ...args, at('disk')], { stdio: 'ignore' });
  servers.push(child);
  for (let i = 0; i < 100; i++) {
    try {
      const fd = await connectNbd(parseNbdUri(uri)!);
      new (await import('node:net')).Socket({ fd }).destroy();
      return child;
    } catch {
      await sleep(50);
    }
  }
  throw new Error('qemu-nbd does not come');
}

async function open(
  rig: Rig,
  uri: string,
  connect: () => void = () => {},
  more: { reconnectDelay?: number } = {},
): Promise<NbdDisk> {
  const address = parseNbdUri(uri)!;
  const fd = await connectNbd(address);
  rig.open(
    (memory, completed) =>
      new NbdDisk(
        { exportName: address.exportName, size: SIZE, readOnly: false, fd, connect, ...more },
        memory,
        completed,
      ),
  );
  return rig.disk as NbdDisk;
}

describe.runIf(qemu)('qemu-nbd', () => {
  const unix = (): string => `nbd+unix:///x?socket=${at('socket')}`;
  it.each(['unix', 'tcp'])('random work over %s', { timeout: 30_000 }, async (kind) => {
    writeFileSync(at('disk'), Buffer.alloc(SIZE, 3));
    const port = 20_000 + (process.pid % 20_000);
    const uri = kind === 'unix' ? unix() : `nbd://127.0.0.1:${port}/x`;
    const where = kind === 'unix' ? ['-k', at('socket')] : ['-b', '127.0.0.1', '-p', String(port)];
    await serve(['-x', 'x', '--discard=unmap', ...where], uri);
    const rig = new Rig();
    await open(rig, uri);
    const model = new Uint8Array(SIZE).fill(3);
    rig.work(model, 11, 60, 500);
    expect(Buffer.compare(rig.all(), model)).toBe(0);
    rig.run(rig.request(BlockOp.flush, 0, 0, 0));
    expect(Buffer.compare(readFileSync(at('disk')), model)).toBe(0);
    rig.disk.close();
  });
  it('a server that dies and comes back: nothing is lost, requests wait', { timeout: 60_000 }, async () => {
    writeFileSync(at('disk'), Buffer.alloc(SIZE));
    const args = ['-x', 'x', '-k', at('socket')];
    let server = await serve(args, unix());
    const rig = new Rig();
    let lost = 0;
    const disk: NbdDisk = await open(rig, unix(), async () => {
      lost++;
      for (;;) {
        try {
          disk.order({ name: 'connection' }, [await connectNbd(parseNbdUri(unix())!)]);
          return;
        } catch {
          await sleep(30);
        }
      }
    });
    const rand = random(5);
    const model = new Uint8Array(SIZE);
    const end = Date.now() + 6000;
    let done = 0;
    let kills = 0;
    let nextKill = Date.now() + 300;
    while (Date.now() < end) {
      const list: BlockRequest[] = [];
      for (let i = 0; i < 8; i++) {
        const from = 512 * (i * 1024 + rand(900));
        const bytes = 512 * (1 + rand(100));
        const value = rand(256);
        rig.bytes.fill(value, i * 65536, i * 65536 + bytes);
        list.push(rig.request(BlockOp.write, from, bytes, i * 65536));
        model.fill(value, from, from + bytes);
      }
      for (const r of list) disk.submit(r);
      disk.kick();
      if (Date.now() > nextKill && kills < 5) {
        server.kill('SIGKILL');
        kills++;
        nextKill = Date.now() + 900;
        void sleep(100 + rand(300)).then(async () => {
          server = await serve(args, unix());
        });
      }
      for (let t = 0; rig.done.length < list.length && t < 3000; t++) await sleep(2);
      expect(rig.done.length).toBe(list.length);
      expect(rig.done.every((r) => r.result === 0)).toBe(true);
      rig.done.length = 0;
      done += list.length;
    }
    expect(kills).toBe(5);
    expect(lost).toBeGreaterThanOrEqual(5);
    expect(done).toBeGreaterThan(100);
    // qemu-nbd was killed, not its writes: they are in the page cache.
    expect(Buffer.compare(readFileSync(at('disk')), model)).toBe(0);
    disk.close();
  });
  it('with a reconnect-delay requests fail when it is over, until there is a server', {
    timeout: 60_000,
  }, async () => {
    writeFileSync(at('disk'), Buffer.alloc(SIZE, 7));
    const args = ['-x', 'x', '-k', at('socket')];
    const server = await serve(args, unix());
    const rig = new Rig();
    let wanted = 0;
    const disk = await open(rig, unix(), () => wanted++, { reconnectDelay: 1 });
    const read = async (n: number): Promise<number[]> => {
      // More than there is room for in the protocol.
      for (let i = 0; i < n; i++) disk.submit(rig.request(BlockOp.read, 4096 * i, 4096, 4096 * i));
      disk.kick();
      for (let t = 0; rig.done.length < n && t < 4000; t++) await sleep(5);
      return rig.done.splice(0).map((r) => r.result);
    };
    expect(new Set(await read(3))).toEqual(new Set([BlockResult.ok]));
    server.kill('SIGKILL');
    for (let t = 0; disk.connected && t < 1000; t++) await sleep(5);
    const since = Date.now();
    const results = await read(200);
    expect([results.length, new Set(results)]).toEqual([200, new Set([BlockResult.io])]);
    expect(Date.now() - since).toBeGreaterThan(500);
    // Now they fail at once.
    expect(await read(2)).toEqual([BlockResult.io, BlockResult.io]);
    expect(wanted).toBe(1);
    await serve(args, unix());
    disk.order({ name: 'connection' }, [await connectNbd(parseNbdUri(unix())!)]);
    expect(new Set(await read(200))).toEqual(new Set([BlockResult.ok]));
    expect(rig.bytes[4096 * 199]).toBe(7);
    disk.close();
  });
  it('images are copied from and to a server', { timeout: 60_000 }, async () => {
    const content = Buffer.alloc(SIZE);
    for (let i = 0; i < SIZE; i += 300_000) content.fill(i >> 12, i, i + 100_000);
    writeFileSync(at('raw'), content);
    // What is zero is to become zero.
    writeFileSync(at('disk'), Buffer.alloc(SIZE + 512, 0xee));
    await serve(['-x', 'x', '-k', at('socket')], unix());
    const none = (): void => {};
    await convert({ from: at('raw'), to: { path: unix(), format: 'raw' } }, none);
    expect(readFileSync(at('disk')).subarray(0, SIZE).equals(content)).toBe(true);
    expect(readFileSync(at('disk'))[SIZE]).toBe(0xee);
    await convert({ from: unix(), to: { path: at('q'), format: 'qcow2' } }, none);
    const same = ['compare', '-f', 'raw', '-F', 'qcow2', at('disk'), at('q')];
    expect(spawnSync('qemu-img', same, { encoding: 'utf8' }).stdout).toMatch(/identical/);
    writeFileSync(at('raw'), Buffer.alloc(SIZE + 1024));
    await expect(convert({ from: at('raw'), to: { path: unix(), format: 'raw' } }, none)).rejects.toThrow(
      /4195328 are to be written/,
    );
    await expect(convert({ from: at('raw'), to: { path: unix(), format: 'qcow2' } }, none)).rejects.toThrow(
      /taken as raw/,
    );
  });
  it('an export that is not there, or read-only', { timeout: 20_000 }, async () => {
    writeFileSync(at('disk'), Buffer.alloc(SIZE));
    await serve(['-x', 'x', '-r', '-k', at('socket')], unix());
    await expect(open(new Rig(), `nbd+unix:///nothing?socket=${at('socket')}`)).rejects.toMatchObject({
      code: 'NBD_EXPORT',
    });
    await expect(open(new Rig(), unix())).rejects.toThrow(/cannot be written/);
  });
});

describe('a server that lies', () => {
  /** A server in this process says these things: nobody else may block meanwhile, so the client is asynchronous here. */
  let server: Server;
  const clients: Socket[] = [];
  afterEach(async () => {
    for (const c of clients.splice(0)) c.destroy();
    await new Promise((r) => server.close(r));
  });
  const listen = (path: string, hello: (s: Socket) => void): Promise<void> =>
    new Promise((resolve) => {
      rmSync(path, { force: true });
      server = createServer((s) => {
        clients.push(s);
        s.on('error', () => {});
        hello(s);
      }).listen(path, resolve);
    });

  it('refuses nonsense at the beginning, in bounded time', async () => {
    const path = at('liar');
    const newstyle = Buffer.from('4e42444d4147494349484156454f505400', 'hex');
    for (const [bytes, what] of [
      [Buffer.from('SSH-2.0-OpenSSH_9.2p1 Debian'), /no NBD server/],
      [Buffer.from('4e42444d4147494300420281861253000000', 'hex'), /oldstyle/],
      [Buffer.concat([newstyle, Buffer.from([0])]), /fixed newstyle/],
    ] as const) {
      await listen(path, (s) => s.write(bytes));
      const rig = new Rig(65536);
      const fd = await connectNbd({ at: { path }, exportName: '' });
      await sleep(50);
      expect(() =>
        rig.open(
          (m, c) => new NbdDisk({ exportName: '', size: SIZE, readOnly: false, fd, connect() {} }, m, c),
        ),
      ).toThrow(what);
      await new Promise((r) => server.close(r));
    }
    await listen(path, () => {});
  });

  it('random replies end in another connection, never in wrong memory', { timeout: 30_000 }, async () => {
    const path = at('liar');
    const rand = random(77);
    const u32 = (n: number): Buffer => Buffer.from([n >>> 24, n >>> 16, n >>> 8, n].map((x) => x & 0xff));
    const reply = (option: number, type: number, data = Buffer.alloc(0)): Buffer =>
      Buffer.concat([Buffer.from('0003e889045565a9', 'hex'), u32(option), u32(type), u32(data.length), data]);
    await listen(path, (s) => {
      // All that the client is to hear in the handshake is there before it begins.
      s.write(Buffer.from('4e42444d4147494349484156454f5054', 'hex'));
      s.write(Buffer.from([0, 3]));
      s.write(reply(8, 1));
      s.write(reply(7, 3, Buffer.concat([Buffer.from([0, 0]), u32(0), u32(SIZE), Buffer.from([0, 0x6d])])));
      s.write(reply(7, 1));
      // Then lies: well-formed heads with wrong contents, and noise.
      for (let i = 0; i < 6; i++) {
        const head = Buffer.alloc(20);
        head.writeUInt32BE(rand(3) ? 0x668e33ef : 0x67446698, 0);
        head.writeUInt16BE(rand(2), 4);
        head.writeUInt16BE([0, 1, 2, 0x8001, 0x8002, 77][rand(6)]!, 6);
        head.writeUInt32BE(rand(10) ? 0 : rand(1 << 30), 8);
        head.writeUInt32BE(rand(140), 12);
        head.writeUInt32BE([0, 8, 12, 20, 4104, 0x7fffffff][rand(6)]!, 16);
        s.write(head);
        s.write(Buffer.from(Array.from({ length: rand(64) }, () => rand(256))));
      }
    });
    const rig = new Rig(1 << 20);
    rig.bytes.fill(0xee);
    let asked = 0;
    let notes = '';
    let over = false;
    /** As the supervisor does: as soon as there is a server. */
    const give = async (): Promise<void> => {
      while (!over) {
        try {
          const fd = await connectNbd({ at: { path }, exportName: '' });
          await sleep(5);
          if (over) close(fd);
          else disk.order({ name: 'connection' }, [fd]);
          return;
        } catch {
          await sleep(5);
        }
      }
    };
    const disk: NbdDisk = new NbdDisk(
      {
        exportName: '',
        size: SIZE,
        readOnly: false,
        connect: () => {
          asked++;
          void give();
        },
        note: (text) => {
          notes += text;
        },
      },
      rig.memory,
      (list, n) => rig.done.push(...list.slice(0, n)),
    );
    await sleep(50);
    for (let i = 0; i < 64; i++)
      disk.submit(rig.request(i % 2 ? BlockOp.read : BlockOp.write, i * 4096, 4096, 4096 * (2 + (i % 8))));
    disk.kick();
    for (let i = 0; i < 600 && asked < 8; i++) await sleep(20);
    over = true;
    disk.close();
    expect(asked).toBeGreaterThanOrEqual(8);
    expect(notes).toMatch(/nothing|none|chunk|not asked for/);
    // Outside of what the requests were given nothing was written.
    expect(rig.bytes.subarray(0, 8192).every((x) => x === 0xee)).toBe(true);
    expect(rig.bytes.subarray(4096 * 11).every((x) => x === 0xee)).toBe(true);
    expect(existsSync(path)).toBe(true);
  });
});

it('addresses', () => {
  expect(parseNbdUri('nbd://host/a%20b')).toEqual({ at: { host: 'host', port: 10809 }, exportName: 'a b' });
  expect(parseNbdUri('nbd://[::1]:99')).toEqual({ at: { host: '::1', port: 99 }, exportName: '' });
  expect(parseNbdUri('nbd+unix:///x?socket=/tmp/s')).toEqual({ at: { path: '/tmp/s' }, exportName: 'x' });
  for (const bad of ['nbd+unix:///x', 'nbd+unix:///x?socket=rel', 'http://host/', 'nbd', '/path'])
    expect(parseNbdUri(bad)).toBeUndefined();
});
