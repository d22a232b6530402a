/**
 * Acts as supervisor and as device processes for a real nyx-vcpu: makes the memory, sends the description, collects
 * events, and serves the rings in the test's own process.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Memory, type Struct, struct, u64, view } from '@nyx/layout';
import {
  close,
  ctl,
  eventfd,
  memfdCreate,
  mmap,
  openSeqSocket,
  type SeqSocket,
  socketpair,
} from '@nyx/native';
import { ControlEvent, ControlMessage, ControlOp } from '@nyx/protocol';
import { type Description, describeMachine } from '@nyx/protocol/describe';
import {
  type BlockSpec,
  defaultBlockBytes,
  ExitServer,
  formatIrqPage,
  formatPageMap,
  formatRings,
  formatVmPage,
  IrqPage,
  irqPageBytes,
  pageMapBytes,
  pageMapFileBytes,
  ringsBytes,
  Space,
  StateBlock,
  Status,
  StatusFlag,
  VmPage,
  vmPageBytes,
} from '@nyx/ring';
import { afterEach } from 'vitest';
// @ts-expect-error plain JavaScript
import { build } from '../build.mjs';

/** Whether the software CPU is in this build. */
export const hasSoft = existsSync(fileURLToPath(new URL('../src/soft/soft.cc', import.meta.url)));
export const program = fileURLToPath(new URL('../build/Release/nyx-vcpu', import.meta.url));
build();

const eventName = (op: number): string =>
  Object.entries(ControlEvent).find(([, n]) => n === op)?.[0] ?? `event ${op}`;

export interface Event {
  name: string;
  a: number;
  b: number;
  text: string;
}

/** A nyx-vcpu process and its control socket. */
export class Vcpu {
  readonly child: ChildProcess;
  readonly socket: SeqSocket;
  readonly events: Event[] = [];
  readonly exited: Promise<number | null>;
  #waiters: (() => void)[] = [];
  signal: NodeJS.Signals | null = null;

  constructor() {
    const [mine, theirs] = socketpair();
    this.child = spawn(program, [], { stdio: ['ignore', 'inherit', 'inherit', theirs], env: {} });
    close(theirs);
    this.socket = openSeqSocket(mine, {
      onMessage: (bytes) => this.#received(bytes),
      onClose: () => this.#wake(),
    });
    this.exited = new Promise((resolve) => {
      this.child.on('exit', (code, signal) => {
        this.signal = signal;
        this.#wake();
        resolve(code);
      });
    });
  }

  #received(bytes: Uint8Array): void {
    const copy = new Uint8Array((bytes.length + 7) & ~7);
    copy.set(bytes);
    const m = view(ControlMessage, new Memory(copy.buffer), 0);
    const text = Buffer.from(bytes.subarray(ControlMessage.bytes)).toString();
    this.events.push({ name: eventName(m.op), a: m.a, b: m.b, text });
    this.#wake();
  }

  #wake(): void {
    for (const w of this.#waiters.splice(0)) w();
  }

  send(op: keyof typeof ControlOp, a = 0, payload: Uint8Array = new Uint8Array(0), fds: number[] = []): void {
    const memory = new Memory(new ArrayBuffer(ControlMessage.bytes));
    const m = view(ControlMessage, memory, 0);
    m.op = ControlOp[op];
    m.length = payload.length;
    m.a = a;
    this.socket.send(Buffer.concat([new Uint8Array(memory.buffer), payload]), fds);
  }

  /** The first event of that name after the `from`-th; throws when the process ends first or after 20 s. */
  async event(name: string, from = 0): Promise<Event> {
    const deadline = Date.now() + 20_000;
    for (;;) {
      const found = this.events.slice(from).find((e) => e.name === name);
      if (found) return found;
      const left = deadline - Date.now();
      if (this.child.exitCode !== null || this.signal !== null || left <= 0)
        throw new Error(
          `no event ${name}; exit ${this.child.exitCode} ${this.signal}; got ${JSON.stringify(this.events)}`,
        );
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, Math.min(left, 1000));
        this.#waiters.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  async quit(): Promise<number | null> {
    if (this.child.exitCode === null && this.signal === null) {
      try {
        this.send('quit');
      } catch {}
    }
    const code = await this.exited;
    this.socket.close();
    return code;
  }
}

export const TestState = struct('TestState', { total: u64(), shadow: u64('what a shadow register shows') });
export const testSpec: BlockSpec<typeof TestState> = {
  kind: 'test',
  stateVersion: 1,
  state: TestState,
  ranges: 2,
};

export interface Exit {
  ring: number;
  kind: number;
  device: number;
  region: number;
  width: number;
  offset: number;
  data: number;
  count: number;
}

export interface MachineOptions {
  accel?: 'kvm' | 'soft' | 'auto';
  cpus?: number;
  /** Code at F000:0000 (ROM of 64 KiB below 4 GiB); the reset vector jumps there. */
  rom: Uint8Array;
  description?: Partial<Description>;
  irqs?: number;
}

/** Memory of a small machine: 1 MiB of RAM, a ROM, one device process with one device at ports 0x500..0x50f. */
export class Machine {
  readonly cpus: number;
  readonly fds: Record<
    'ram' | 'rom' | 'vmPage' | 'pageMap' | 'ring' | 'kick' | 'irqPage' | 'irqEvent' | 'state',
    number
  >;
  readonly ring: ArrayBuffer;
  readonly ram: ArrayBuffer;
  readonly block: StateBlock<typeof TestState>;
  readonly irq: IrqPage;
  readonly vmPage: ReturnType<typeof view<typeof VmPage>>;
  readonly description: Description;
  server: ExitServer | undefined;

  constructor(options: MachineOptions, spec: BlockSpec<typeof TestState> = testSpec) {
    this.cpus = options.cpus ?? 1;
    const irqs = options.irqs ?? 4;
    const make = (name: string, bytes: number) => memfdCreate(name, bytes);
    this.fds = {
      ram: make('ram', 1 << 20),
      rom: make('rom', 1 << 16),
      vmPage: make('vm', vmPageBytes),
      pageMap: make('pages', pageMapFileBytes(256)),
      ring: make('ring', ringsBytes(this.cpus)),
      kick: eventfd(),
      irqPage: make('irq', irqPageBytes(irqs)),
      irqEvent: eventfd(),
      state: make('state', defaultBlockBytes),
    };
    const map = (fd: number, bytes: number) => mmap(fd, bytes);
    const rom = new Uint8Array(map(this.fds.rom, 1 << 16));
    rom.set(options.rom);
    // jmp near to offset 0
    rom.set([0xe9, 0x0d, 0x00], 0xfff0);
    this.ram = map(this.fds.ram, 1 << 20);
    this.ring = map(this.fds.ring, ringsBytes(this.cpus));
    formatRings(this.ring, this.cpus);
    const vm = map(this.fds.vmPage, vmPageBytes);
    formatVmPage(vm, { cpus: this.cpus, wallClock: 1 });
    this.vmPage = view(VmPage, new Memory(vm), 0);
    formatPageMap(map(this.fds.pageMap, pageMapBytes(256)), this.cpus, 256);
    const irqPage = map(this.fds.irqPage, irqPageBytes(irqs));
    formatIrqPage(irqPage, irqs);
    this.irq = new IrqPage(irqPage, this.fds.irqEvent);
    this.block = new StateBlock(map(this.fds.state, defaultBlockBytes), spec);
    const f = this.fds;
    this.description = {
      accel: options.accel ?? 'kvm',
      cpus: this.cpus,
      boot: { bootMode: 0 },
      vmPage: f.vmPage,
      pageMap: f.pageMap,
      startPaused: true,
      memories: [
        { gpa: 0, size: 1 << 20, fd: f.ram, fdOffset: 0 },
        { gpa: 0xffff0000, size: 1 << 16, fd: f.rom, fdOffset: 0, readonly: true },
      ],
      processes: [{ name: 'test', ring: f.ring, kick: f.kick, irqPage: f.irqPage, irqEvent: f.irqEvent }],
      devices: [{ name: 'dev', process: 'test', index: 0, state: f.state, irqBase: 0, irqCount: irqs }],
      ranges: [{ device: 'dev', space: Space.pio, region: 0, base: 0x500, length: 0x10 }],
      routes: [],
      functions: [],
      ...options.description,
    };
  }

  /** Serves the rings; the handler's result is [reply, status], status 0 when only a number is given. */
  serve(handler: (exit: Exit, burst: Uint8Array) => number | [number, number], maxSpinNs = 50_000): void {
    const server: ExitServer = new ExitServer({
      rings: this.ring,
      kick: this.fds.kick,
      maxSpinNs,
      onExit: () => {
        const w = server.ctl;
        const ring = w[ctl.ring]!;
        const result = handler(
          {
            ring,
            kind: w[ctl.kind]!,
            device: w[ctl.device]!,
            region: w[ctl.region]!,
            width: w[ctl.width]!,
            offset: w[ctl.offsetLo]!,
            data: w[ctl.dataLo]!,
            count: w[ctl.count]!,
          },
          server.bursts[ring]!,
        );
        const [reply, status] = typeof result === 'number' ? [result, Status.ok] : result;
        server.commit(this.block, reply, 0, status);
      },
    });
    server.addBlock(this.block);
    server.attach();
    server.start();
    this.server = server;
  }

  /** Starts nyx-vcpu with this machine and waits until it is built. */
  async start(): Promise<Vcpu> {
    const vcpu = new Vcpu();
    const { bytes, fds } = describeMachine(this.description);
    vcpu.send('machine', 0, bytes, fds);
    await vcpu.event('ready');
    return vcpu;
  }

  close(): void {
    this.server?.close();
    for (const fd of Object.values(this.fds)) close(fd);
  }
}

/** Which of the engines are on this host; says which are not. */
export const enginesHere = (): ('kvm' | 'soft')[] =>
  (['kvm', 'soft'] as const).filter((engine) => {
    const there = engine === 'kvm' ? existsSync('/dev/kvm') : hasSoft;
    if (!there) console.warn(`skipped: guests under ${engine}, which is not here`);
    return there;
  });

/** Status of a reply that is a machine event as well. */
export const event = (n: number): number => n << StatusFlag.eventShift;

/** Starts one machine at a time, which ends with its test. */
export const booter = (): ((m: Machine) => Promise<Vcpu>) => {
  let machine: Machine | undefined;
  let vcpu: Vcpu | undefined;
  afterEach(async () => {
    await vcpu?.quit();
    machine?.close();
    vcpu = machine = undefined;
  });
  return async (m) => {
    machine = m;
    vcpu = await m.start();
    vcpu.send('start');
    return vcpu;
  };
};

export type { Struct };
