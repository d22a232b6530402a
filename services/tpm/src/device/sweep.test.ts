/**
 * The device with our TPM behind it, its process killed at each step in turn: of an exit, of a commit of the state block, of a
 * commit of the TPM. The guest gets the responses, and the TPM the state, of the run in which nobody died.
 */
import { CrashRig } from '@nyx/device/crash-rig';
import { expect, test } from 'vitest';
import { MemoryStore } from '../core/store.ts';
import { NT, NVA, RH } from '../spec/constants.ts';
import { commandBytes } from '../testing/client.ts';
import { tpmCrb } from './crb/device.ts';
import type { Engine, Request } from './engine.ts';
import { Executor } from './executor.ts';
import { bulkBytes } from './requests.ts';
import { tpmTis } from './tis/device.ts';

/** The store is a file: it outlives the process, and reaching it is a step. */
class SteppedStore extends MemoryStore {
  step: () => void = () => {};
  override commit(changes: ReadonlyMap<string, Buffer | undefined>): void {
    this.step();
    super.commit(changes);
    this.step();
  }
}

/** Executes in the device's timer; it and its TPM die with the process. */
class InlineEngine implements Engine {
  waiting: { request: Request; done: (response: Uint8Array) => void } | undefined;
  readonly #executor: Executor;
  constructor(
    store: SteppedStore,
    private readonly arm: (ns: number) => void,
  ) {
    // Nothing that goes wrong is caught on the way: death least of all.
    this.#executor = new Executor(store, (e) => {
      throw e;
    });
  }
  submit(request: Request, done: (response: Uint8Array) => void): void {
    this.waiting = { request, done };
  }
  cancel(): void {}
  settle(): void {
    this.arm(this.waiting ? 0 : Number.POSITIVE_INFINITY);
  }
  timer(): void {
    const w = this.waiting;
    this.waiting = undefined;
    if (w) w.done(this.#executor.execute(w.request));
  }
}

const none = Buffer.alloc(0);
const nvIndex = 0x01500001;
const setup = [
  commandBytes('Startup', { startupType: 0 }),
  commandBytes('NV_DefineSpace', {
    authHandle: RH.OWNER,
    auth: none,
    publicInfo: {
      nvIndex,
      nameAlg: 0xb,
      attributes: NVA.OWNERREAD | NVA.OWNERWRITE | NVA.NO_DA | (NT.COUNTER << 4),
      authPolicy: none,
      dataSize: 8,
    },
  }),
];
const work = [
  commandBytes('NV_Increment', { authHandle: RH.OWNER, nvIndex }),
  commandBytes('NV_Read', { authHandle: RH.OWNER, nvIndex, size: 8, offset: 0 }),
  commandBytes('PCR_Event', { pcrHandle: 16, eventData: Buffer.from('twice is wrong') }),
  commandBytes('PCR_Read', { pcrSelectionIn: [{ hash: 0xb, pcrSelect: Buffer.of(0, 0, 1) }] }),
];

/** Commands and responses of a guest; dies at step `dieAt` of `work`. */
function run(model: 'tis' | 'crb', dieAt?: number): { responses: string[]; steps: number; deaths: number } {
  const store = new SteppedStore();
  const engineOf = (ctx: { timerAt(ns: number): void }): InlineEngine =>
    new InlineEngine(store, (ns) => ctx.timerAt(ns));
  const kind = model === 'tis' ? tpmTis<object>(engineOf) : tpmCrb<object>(engineOf);
  const rig = new CrashRig({
    kind: kind as ReturnType<typeof tpmTis<object>>,
    config: {},
    bulks: { buffer: new ArrayBuffer(bulkBytes) },
  });
  store.step = () => rig.step();
  const fire = (): void => {
    for (let i = 0; rig.timerNs === 0; i++) {
      if (i > 50) throw new Error('it never ends');
      rig.fire();
    }
  };
  const w = (offset: number, width: number, value: number): void => rig.write(0, offset, width, value);
  const transact = (command: Buffer): Buffer => {
    const octets: number[] = [];
    const take = (read: (i: number) => number): void => {
      for (let size = 10; octets.length < size; ) {
        octets.push(read(octets.length));
        if (octets.length === 10) size = Buffer.from(octets).readUInt32BE(2);
      }
    };
    if (model === 'tis') {
      w(0x18, 1, 0x40);
      for (const b of command) w(0x24, 1, b);
      w(0x18, 1, 0x20);
      fire();
      expect(rig.read(0, 0x18, 1) & 0x10).toBe(0x10);
      take(() => rig.read(0, 0x24, 1));
    } else {
      w(0x40, 4, 1);
      command.forEach((b, i) => w(0x80 + i, 1, b));
      w(0x4c, 4, 1);
      fire();
      expect(rig.read(0, 0x4c, 4)).toBe(0);
      take((i) => rig.read(0, 0x80 + i, 1));
    }
    return Buffer.from(octets);
  };
  fire();
  if (model === 'tis') w(0, 1, 2);
  else w(8, 4, 1);
  for (const c of setup) transact(c);
  const start = rig.steps;
  if (dieAt !== undefined) rig.dieAt = [start + dieAt];
  const responses = work.map((c) => transact(c).toString('hex'));
  return { responses, steps: rig.steps - start, deaths: rig.deaths };
}

test.each(['crb', 'tis'] as const)(
  '%s: killed at every step of four commands',
  (model) => {
    const undisturbed = run(model);
    expect(undisturbed.deaths).toBe(0);
    expect(undisturbed.steps).toBeGreaterThan(500);
    for (let n = 1; n <= undisturbed.steps; n++) {
      const { responses, deaths } = run(model, n);
      expect(deaths, `step ${n}`).toBeGreaterThan(0);
      expect(responses, `step ${n}`).toEqual(undisturbed.responses);
    }
  },
  180_000,
);
