/**
 * Devices whose work vhost-user back-ends do. The sockets' paths are known here only: the device process asks for a
 * connection whenever it has none, and gets one as soon as there is a back-end, however long that takes.
 */
import { pciGsi } from '@nyx/boot';
import { close, connectUnix, dup, memfdCreate, openSeqSocket, type SeqSocket, socketpair } from '@nyx/native';
import { NyxError } from '@nyx/protocol/errors';
import type { VmSpec } from '@nyx/protocol/spec';
import { Frontend, ProtocolFeature } from '@nyx/vhost-user';
import type { Resources } from './resources.ts';
import type { DeviceLine } from './wiring.ts';

type VhostSpec = VmSpec['vhostUser'][number];

/** PCI device number of the first; disks are below. */
const firstSlot = 18;
/** services/vhost-user/src/regs.ts. */
const mostQueues = 8;
/** services/vhost-user/src/relay.ts. */
const relayBytes = 2 ** 20;

/** A back-end that has said what it is. */
interface OpenedBackend {
  spec: VhostSpec;
  /** The connection on which it said so. */
  fd: number;
  config: { type: number; classCode: number; queues: number; features: number; config: string };
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

/** VIRTIO_BLK_F_MQ, and where its configuration says how many queues there are. */
const blk = { type: 2, classCode: 0x010000, configBytes: 60, multiQueue: 12, numQueuesAt: 34 } as const;
const fs = { type: 26, classCode: 0x018000, tagBytes: 36 } as const;

async function describe(frontend: Frontend, spec: VhostSpec): Promise<OpenedBackend['config']> {
  const { lo } = frontend.offered;
  const most = Math.min(mostQueues, frontend.queues, spec.queues ?? mostQueues);
  if (spec.type === 'fs') {
    // The tag is the machine's, not the back-end's; one queue for urgent requests, the rest for all others.
    const queues = Math.max(2, Math.min(most, 2));
    const config = Buffer.alloc(fs.tagBytes + 4);
    config.write(spec.tag ?? 'nyx', 'utf8');
    config.writeUInt32LE(queues - 1, fs.tagBytes);
    return { type: fs.type, classCode: fs.classCode, queues, features: 0, config: hex(config) };
  }
  if (!frontend.has(ProtocolFeature.config))
    throw new Error('it does not tell the configuration of its disk');
  const config = await frontend.config(0, blk.configBytes);
  const view = new DataView(config.buffer, config.byteOffset, config.byteLength);
  const queues =
    lo & (1 << blk.multiQueue) ? Math.max(1, Math.min(most, view.getUint16(blk.numQueuesAt, true))) : 1;
  view.setUint16(blk.numQueuesAt, queues, true);
  return { type: blk.type, classCode: blk.classCode, queues, features: lo & 0xffffff, config: hex(config) };
}

/** Asks every back-end of a machine what it is. @throws NyxError BACKEND_MISSING, BACKEND_INVALID; nothing stays open then */
async function openBackends(spec: Pick<VmSpec, 'vhostUser'>): Promise<OpenedBackend[]> {
  const opened: OpenedBackend[] = [];
  try {
    for (const s of spec.vhostUser) {
      let fd: number;
      try {
        fd = connectUnix(s.socket);
      } catch (e) {
        throw new NyxError('BACKEND_MISSING', {
          expected: `a vhost-user back-end (${s.type}) that listens on ${s.socket}`,
          got: (e as { code?: string }).code ?? String(e),
        });
      }
      // The copy is what is closed: the connection goes on in the device process.
      const frontend = new Frontend(dup(fd), { closed() {} });
      try {
        await frontend.hello();
        opened.push({ spec: s, fd, config: await describe(frontend, s) });
      } catch (e) {
        close(fd);
        throw new NyxError('BACKEND_INVALID', {
          expected: `a vhost-user back-end (${s.type}) on ${s.socket}`,
          got: (e as Error).message,
        });
      } finally {
        frontend.close();
      }
    }
    return opened;
  } catch (e) {
    for (const o of opened) close(o.fd);
    throw e;
  }
}

/** Shortest and longest wait before another attempt, ms. */
const retry = { first: 20, last: 500 } as const;

/** Gives a device process connections to one back-end. */
class Connector {
  readonly #socket: SeqSocket;
  #first: number | undefined;
  #timer: NodeJS.Timeout | undefined;
  #waited = false;

  /**
   * @param mine our end of the connection with the device process
   * @param first a connection that is there already
   */
  constructor(
    readonly path: string,
    mine: number,
    first: number | undefined,
    readonly log: (level: 'info' | 'warn', message: string) => void,
    /** Whether the process waits for one: another supervisor goes on with that. */
    readonly waits: (yes: boolean) => void,
  ) {
    this.#first = first;
    this.#socket = openSeqSocket(mine, { maxFds: 0, onMessage: () => this.asked() });
  }

  /** The process wants a connection. */
  asked(): void {
    if (this.#timer) return;
    this.waits(true);
    if (this.#first !== undefined) this.#send(this.#first);
    // Never at once: a process, or a back-end, that gives up every connection must not keep us busy.
    else this.#timer = setTimeout(() => this.#try(retry.first), retry.first);
    this.#first = undefined;
  }

  #try(wait: number): void {
    this.#timer = undefined;
    let fd: number;
    try {
      fd = connectUnix(this.path);
    } catch (e) {
      if (!this.#waited)
        this.log('warn', `no back-end on ${this.path} (${(e as { code?: string }).code}); waiting for one`);
      this.#waited = true;
      this.#timer = setTimeout(() => this.#try(Math.min(2 * wait, retry.last)), wait);
      return;
    }
    if (this.#waited) this.log('info', `a back-end is on ${this.path} again`);
    this.#waited = false;
    this.#send(fd);
  }

  #send(fd: number): void {
    try {
      this.#socket.send(Buffer.from('connection'), [fd]);
    } catch {
      // The process reads nothing: it is killed for that, and its successor asks again.
    } finally {
      close(fd);
      this.waits(false);
    }
  }

  close(): void {
    clearTimeout(this.#timer);
    if (this.#first !== undefined) close(this.#first);
    this.#socket.close();
  }
}

const nameOf = (spec: VhostSpec, i: number): string => `${spec.type}${i}-vhost`;

type Shares = Pick<Resources, 'hold' | 'ram' | 'named' | 'keeper' | 'estate'>;
type Log = (level: 'info' | 'warn', message: string) => void;

/** What a machine needs of its back-ends. */
export interface Backends {
  readonly lines: readonly DeviceLine[];
  /** Makes what the devices share. */
  adopt(r: Shares, log: Log): void;
  close(): void;
}

/** @throws NyxError BACKEND_MISSING, BACKEND_INVALID */
export async function backendsOf(spec: Pick<VmSpec, 'vhostUser'>): Promise<Backends> {
  const opened = await openBackends(spec);
  let connectors: Connector[] = [];
  return {
    lines: vhostLines(opened),
    adopt(r, log) {
      connectors = connect(r, opened, log);
    },
    close() {
      for (const c of connectors) c.close();
    },
  };
}

/** Those of a machine that another nyxd has started: its devices know them already, and may ask for more connections. */
export function inheritedBackends(spec: Pick<VmSpec, 'vhostUser'>): Backends {
  let connectors: Connector[] = [];
  return {
    lines: [],
    adopt(r, log) {
      const known = spec.vhostUser.map((s) => ({ spec: s, fd: undefined }));
      connectors = connect(r, known, log);
    },
    close() {
      for (const c of connectors) c.close();
    },
  };
}

function connect(
  r: Shares,
  opened: readonly { spec: VhostSpec; fd: number | undefined }[],
  log: Log,
): Connector[] {
  return opened.map((o, i) => {
    const name = nameOf(o.spec, i);
    let pair: number[] | undefined;
    const end = (n: number) => (): number => {
      pair ??= socketpair();
      return pair[n]!;
    };
    r.hold(`${name}.connector`, end(1));
    const mine = r.hold(`${name}.ours`, end(0));
    r.hold(`${name}.relay`, () => memfdCreate(`nyx-${name}`, relayBytes));
    r.named.set(`${name}.ram`, r.ram.fd);
    const key = `waits/${name}`;
    const connector = new Connector(
      o.spec.socket,
      dup(mine),
      o.fd,
      (level, message) => log(level, `${name}: ${message}`),
      (yes) => (yes ? r.keeper.put(key, true) : r.keeper.drop(key)),
    );
    if (r.estate?.find(key, () => true)) connector.asked();
    return connector;
  });
}

const vhostLines = (opened: readonly OpenedBackend[]): DeviceLine[] =>
  opened.map((o, i): DeviceLine => {
    const name = nameOf(o.spec, i);
    const slot = firstSlot + i;
    return {
      name,
      kind: 'vhost-user',
      dma: true,
      process: name,
      service: 'vhost-user',
      bdf: slot << 3,
      irqs: [`line ${pciGsi(slot, 0)}`, ...Array.from({ length: 9 }, (): 'msi' => 'msi')],
      config: o.config,
      fds: { connector: `${name}.connector`, relay: `${name}.relay`, ram: `${name}.ram` },
    };
  });
