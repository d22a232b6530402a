/**
 * A virtio device whose work another program does, over vhost-user: the PCI function, its queues and its life are the
 * kit's, the requests go to the back-end and wait while there is none.
 */
import {
  type Chain,
  type Device,
  type DeviceContext,
  type DeviceKind,
  defineDevice,
  MsixLayout,
  rangesOf,
  type VirtioDevice,
  VirtioLayout,
  VirtioPci,
  type VirtioView,
  virtioBars,
  virtioKeep,
  virtioRegion,
} from '@nyx/device';
import { eventfd } from '@nyx/native';
import { ringLayout } from '@nyx/vhost-user';
import { VhostLimit, VhostState } from './regs.ts';
import { Relay, relayBytes } from './relay.ts';
import { Session } from './session.ts';

export interface VhostConfig {
  /** Virtio device type, e.g. 2. */
  type: number;
  classCode: number;
  /** 1..8. */
  queues: number;
  /** Features of the device that the back-end offers, bits 0..23. */
  features: number;
  /** Device configuration, hexadecimal. */
  config: string;
}

/** @throws coded error CONFIG_INVALID */
function checkConfig(name: string, c: VhostConfig): void {
  const fits = (n: unknown, most: number): boolean =>
    Number.isInteger(n) && (n as number) >= 0 && (n as number) <= most;
  const good =
    fits(c.type, 63) &&
    fits(c.classCode, 0xffffff) &&
    fits(c.queues, VhostLimit.queues) &&
    c.queues > 0 &&
    fits(c.features, 0xffffff) &&
    typeof c.config === 'string' &&
    /^([0-9a-f]{2}){0,256}$/.test(c.config);
  if (!good)
    throw Object.assign(
      new Error(`${name}: expected type, classCode, queues, features and config of a back-end`),
      {
        code: 'CONFIG_INVALID',
      },
    );
}

/** Of a disk the back-end may change its capacity (VIRTIO 1.2 section 5.2.4); the number of queues is the machine's. */
const blockDevice = { type: 2, capacityBytes: 8 } as const;
/** Addresses that we give our memory in descriptors, and in what the protocol calls user addresses. */
const RELAY = 2 ** 45;
/** Longest wait for the back-end at a machine reset. */
const DRAIN_MS = 2000;

class VhostDevice implements VirtioDevice {
  readonly type: number;
  readonly classCode: number;
  readonly queues: number;
  readonly queueSize = VhostLimit.queueSize;
  readonly features: number;
  readonly configBytes: number;
  readonly pci: VirtioPci;
  readonly #ctx: DeviceContext<typeof VhostState>;
  /** As the back-end said it; the one that the guest sees is in the state. transient: made of the configuration. */
  readonly #config: Uint8Array;
  readonly #relay: Relay;
  readonly #session: Session;
  readonly #harvest = (): void => {
    const good = this.#relay.harvest();
    this.pci.finished();
    if (!good) setImmediate(() => this.#session.drop('it broke the rules of a ring'));
  };

  constructor(ctx: DeviceContext<typeof VhostState>, config: VhostConfig) {
    checkConfig(ctx.name, config);
    this.#ctx = ctx;
    this.type = config.type;
    this.classCode = config.classCode;
    this.queues = config.queues;
    this.features = config.features;
    this.#config = Uint8Array.from(config.config.match(/../g) ?? [], (b) => Number.parseInt(b, 16));
    this.configBytes = this.#config.length;
    const relay = ctx.bulk('relay');
    if (relay.byteLength < relayBytes)
      throw Object.assign(new Error(`${ctx.name}: ${relay.byteLength} bytes of memory for rings`), {
        code: 'ROLE_DESCRIPTOR',
      });
    const kicks = Array.from({ length: config.queues }, () => eventfd());
    const call = eventfd();
    this.#relay = new Relay(ctx.memory, relay, RELAY, kicks, {
      finish: (slot, written) => this.pci.finish(slot, written),
    });
    this.pci = new VirtioPci(ctx, ctx.state as unknown as VirtioView, this);
    const layout = ringLayout(VhostLimit.ringSize);
    const { buffer } = ctx.memory;
    this.#session = new Session({
      connector: ctx.fd('connector'),
      // A place in guest memory has one name between us and the back-end: its offset.
      memory: [
        { guest: 0, user: 0, bytes: buffer.byteLength, offset: 0, fd: ctx.fd('ram') },
        { guest: RELAY, user: RELAY, bytes: relay.byteLength, offset: 0, fd: ctx.fd('relay') },
      ],
      rings: kicks.map((kick, index) => {
        const at = RELAY + index * layout.bytes;
        return {
          index,
          flags: 0,
          descriptor: at + layout.desc,
          available: at + layout.avail,
          used: at + layout.used,
          log: 0,
          size: VhostLimit.ringSize,
          base: 0,
          kick,
          call,
        };
      }),
      wanted: () => (this.#wanted ? this.pci.features & 0xffffff & this.features : undefined),
      starting: () => this.#relay.stopped(),
      started: (indirect, eventIdx) => {
        this.#relay.indirect = indirect;
        this.#relay.eventIdx = eventIdx;
        this.#relay.running = true;
        this.#relay.submit();
      },
      stopped: () => {
        // What it had finished is finished.
        ctx.event(this.#harvest);
        this.#relay.stopped();
      },
      configBytes: config.type === blockDevice.type ? blockDevice.capacityBytes : 0,
      configured: (bytes) => this.#configured(bytes),
      log: (level, message) => ctx.log(level, message),
    });
    ctx.watch(call, () => ctx.event(this.#harvest));
  }

  /** A driver has sent requests since the last reset. transient: a successor takes those under way again. */
  #wanted = false;

  /** The driver is told once of what is new to it, whoever dies in between. */
  #configured(bytes: Uint8Array): void {
    const { config } = this.#ctx.state;
    this.#config.set(bytes);
    if (bytes.every((b, i) => config.get(i) === b)) return;
    this.#ctx.event(() => {
      for (const [i, b] of bytes.entries()) config.set(i, b);
      this.pci.configChanged();
    });
  }

  configRead(offset: number, width: number): number {
    let value = 0;
    for (let i = 0; i < width; i++)
      if (offset + i < this.configBytes) value |= this.#ctx.state.config.get(offset + i) << (8 * i);
    return value >>> 0;
  }
  configWrite(offset: number, width: number, value: number): void {
    if (offset + width > this.configBytes) return;
    const bytes = Uint8Array.from({ length: width }, (_, i) => value >>> (8 * i));
    for (const [i, b] of bytes.entries()) this.#ctx.state.config.set(offset + i, b);
    this.#session.configWrite(offset, bytes);
  }

  take(slot: number, queue: number, chain: Chain): void {
    this.#wanted = true;
    this.#relay.take(slot, queue, chain);
  }
  submit(): void {
    if (this.#relay.running) this.#relay.submit();
    else if (this.#wanted) this.#session.look();
  }

  reset(): void {
    for (let i = 0; i < this.configBytes; i++) this.#ctx.state.config.set(i, this.#config[i]!);
    this.#wanted = false;
    this.#session.look();
  }

  drain(): boolean {
    const end = Date.now() + DRAIN_MS;
    const pause = new Int32Array(new SharedArrayBuffer(4));
    while (this.#relay.running && this.#relay.count > 0 && Date.now() < end) {
      if (!this.#relay.harvest()) break;
      Atomics.wait(pause, 0, 0, 1);
    }
    const late = this.#relay.running && this.#relay.count > 0;
    if (late) this.#session.drop('requests did not end before a reset of the machine');
    for (const slot of this.#relay.drop()) this.pci.finish(slot, 0);
    return !late;
  }
}

const kind = (name: string): DeviceKind<typeof VhostState, VhostConfig> =>
  defineDevice({
    kind: name,
    stateVersion: 1,
    state: VhostState,
    keep: virtioKeep,
    regions: [
      { name: 'virtio', size: VirtioLayout.bytes, table: virtioRegion },
      { name: 'msix', size: MsixLayout.bytes },
    ],
    ranges: rangesOf(virtioBars),
    irqs: () => 1 + VhostLimit.queues + 1,
    create: (ctx, config): Device => new VhostDevice(ctx, config).pci,
  });

export const vhostUser = kind('vhost-user');
