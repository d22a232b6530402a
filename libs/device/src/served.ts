/**
 * A real device process for tests and benchmarks: memfds as the supervisor makes them, the role, and a producer that
 * stands for a vCPU. Guest time begins when it is made.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { Memory, type View, view } from '@nyx/layout';
import {
  close,
  createTestProducer,
  eventfd,
  memfdCreate,
  mmap,
  monotonicNs,
  openSeqSocket,
  type SeqSocket,
  socketpair,
  type TestProducer,
} from '@nyx/native';
import type { FaultRule, Role, RoleReply } from '@nyx/protocol';
import {
  defaultBlockBytes,
  formatIrqPage,
  formatRings,
  formatVmPage,
  IrqEntry,
  irqPageBytes,
  RingsView,
  ringsBytes,
  VmPage,
  vmPageBytes,
  wire,
} from '@nyx/ring';
import { faultPageBytes } from './faults/page.ts';

export interface ServedDevice {
  name: string;
  kind: string;
  irqs: number;
  config?: Record<string, unknown>;
  gsi?: Record<string, number>;
  /** Name to descriptor of this process. */
  fds?: Record<string, number>;
}

export class Served {
  readonly ring = memfdCreate('ring', ringsBytes(1));
  readonly rings: RingsView;
  readonly kick = eventfd();
  readonly irqEvent = eventfd();
  readonly irqPage: ArrayBuffer;
  readonly vm: View<typeof VmPage>;
  readonly ram: ArrayBuffer;
  /** Stands for vCPU 0, and for the fabric. */
  readonly cpu: TestProducer;
  readonly fabric: TestProducer;
  readonly role: Role;
  readonly #fds: number[] = [];
  child!: ChildProcess;
  stderr = '';
  #socket: SeqSocket | undefined;

  constructor(
    readonly command: readonly string[],
    devices: readonly ServedDevice[],
    ramBytes = 0x100000,
  ) {
    const buffer = mmap(this.ring, ringsBytes(1));
    formatRings(buffer, 1);
    this.rings = new RingsView(buffer);
    const entries = devices.reduce((n, d) => n + d.irqs, 0);
    const share = (fd: number): number => this.#fds.push(fd) - 1;
    const made = (name: string, bytes: number): [number, ArrayBuffer] => {
      const fd = memfdCreate(name, bytes);
      return [share(fd), mmap(fd, bytes)];
    };
    const [irqPage, irqBuffer] = made('irq', irqPageBytes(entries));
    this.irqPage = irqBuffer;
    formatIrqPage(irqBuffer, entries);
    const [vmPage, vmBuffer] = made('vm', vmPageBytes);
    formatVmPage(vmBuffer, { cpus: 1, wallClock: 1_700_000_000 });
    this.vm = view(VmPage, new Memory(vmBuffer));
    this.vm.clockOffset = monotonicNs();
    this.vm.paused = 0;
    const [ram, ramBuffer] = made('ram', ramBytes);
    this.ram = ramBuffer;
    let irqBase = 0;
    this.role = {
      type: 'role',
      version: 1,
      vm: 'test',
      process: 'served',
      devices: devices.map((d) => {
        const fds = Object.fromEntries(Object.entries(d.fds ?? {}).map(([name, fd]) => [name, share(fd)]));
        const role = {
          name: d.name,
          kind: d.kind,
          config: d.config ?? {},
          state: share(memfdCreate(`state-${d.name}`, defaultBlockBytes)),
          irqBase,
          fds,
          ...(d.gsi ? { gsi: d.gsi } : {}),
        };
        irqBase += d.irqs;
        return role;
      }),
      ring: share(this.ring),
      kick: share(this.kick),
      irqPage,
      irqEvent: share(this.irqEvent),
      vmPage,
      ram,
      ramLowBytes: ramBytes,
      ramBytes,
    };
    this.cpu = createTestProducer(buffer, 0, this.kick);
    this.fabric = createTestProducer(buffer, 1, this.kick);
  }

  /** Fault rules from its start on. */
  faults(rules: readonly FaultRule[]): void {
    const page = this.#fds.push(memfdCreate('faults', faultPageBytes)) - 1;
    this.role.faults = { page, rules: [...rules] };
  }

  /** Starts a process and gives it the role; resolves with its answer. */
  start(): Promise<Extract<RoleReply, { type: 'serving' }>> {
    return new Promise((resolve, reject) => {
      const [ours, theirs] = socketpair();
      const child = spawn(this.command[0]!, this.command.slice(1), {
        stdio: ['ignore', 'ignore', 'pipe', theirs],
      });
      close(theirs);
      this.child = child;
      child.stderr!.on('data', (b: Buffer) => {
        this.stderr += b.toString();
      });
      child.on('error', reject);
      const died = (code: number | null, signal: string | null): void =>
        reject(new Error(`ended with ${code ?? signal}: ${this.stderr}`));
      child.once('exit', died);
      this.#socket = openSeqSocket(ours, {
        onMessage: (bytes) => {
          const reply = JSON.parse(new TextDecoder().decode(bytes)) as RoleReply;
          if (reply.type === 'ready')
            this.#socket!.send(new TextEncoder().encode(JSON.stringify(this.role)), this.#fds);
          else if (reply.type === 'failed')
            reject(Object.assign(new Error(reply.message), { code: reply.code }));
          else if (reply.type === 'serving') {
            child.off('exit', died);
            resolve(reply);
          }
        },
      });
    });
  }

  /** SIGKILL, and waits for the end. */
  kill(): Promise<void> {
    return new Promise((resolve) => {
      this.#socket?.close();
      this.child.once('exit', () => resolve());
      this.child.kill('SIGKILL');
    });
  }

  /** Interrupt word of an entry. */
  word(entry: number): number {
    return new Uint32Array(this.irqPage)[(wire.irqEntriesAt + entry * IrqEntry.bytes) >> 2]!;
  }
}
