/**
 * The TPM: its state, and what all commands use of it. Pure but for what it is given: random octets, a clock, a store.
 * A command changes the state in memory and marks what must be kept; `flush` makes that durable in one commit,
 * after the command and before its response is given out.
 */
import { randomBytes } from 'node:crypto';
import { RandomSource } from '../crypto/random.ts';
import { decode, encode, sized, struct, u32 } from '../spec/codec.ts';
import { ALG, LIMIT, RC, RH } from '../spec/constants.ts';
import { refuse } from '../spec/refusal.ts';
import { Clock } from './clock.ts';
import { DictionaryAttack } from './da.ts';
import { defaultAllocation, PcrBanks } from './pcr.ts';
import { Sequence } from './sequence.ts';
import type {
  ClearData,
  HierarchyAuth,
  LoadedObject,
  NvIndex,
  Persistent,
  ResetData,
  Session,
} from './state.ts';
import {
  clearData,
  clockRecord,
  loadedObject,
  noAuth,
  nvRecord,
  ORDERLY,
  persistent,
  resetData,
} from './state.ts';
import type { Store } from './store.ts';
import { MemoryStore, runRecord } from './store.ts';
import { restoreVolatile, saveVolatile } from './volatile.ts';

export interface TpmOptions {
  store?: Store;
  /** Monotonic milliseconds. */
  now?: () => number;
  /** Called with what broke when the TPM enters failure mode. */
  onFailure?: (error: unknown) => void;
  /**
   * The volatile state and the last response are part of every commit, so that a successor of a killed process goes on:
   * give `resume` to it. Without `resume` it is power on.
   */
  crashOnly?: boolean;
  /** Whether the platform wants the command under way to end (besides `cancelled`); asked now and then. */
  cancelled?: () => boolean;
  /** Go on from the store's volatile state, if it has one; `now` must count as it did. */
  resume?: boolean;
}

const runRecordBody = struct({ number: u32, response: sized(LIMIT.response), state: sized(0xffff) });

const handleName = (h: number) => h.toString(16).padStart(8, '0');

export class Tpm {
  readonly random = new RandomSource();
  readonly clock: Clock;
  readonly da = new DictionaryAttack(this);
  readonly store: Store;
  readonly onFailure: (error: unknown) => void;
  private readonly isCancelled: (() => boolean) | undefined;

  persistent: Persistent;
  clear: ClearData;
  reset: ResetData;
  readonly pcrs: PcrBanks;
  readonly nv = new Map<number, NvIndex>();
  readonly evicted = new Map<number, LoadedObject>();

  // What is lost when power is.
  /** After _TPM_Init, before Startup: false. */
  started = false;
  failed = false;
  phEnable = true;
  /** Slot n is handle 0x80000000 + n. */
  readonly objects: (LoadedObject | Sequence | undefined)[] = new Array(LIMIT.objects).fill(undefined);
  readonly sessions = new Map<number, Session>();
  exclusiveAudit: number = RH.UNASSIGNED;
  locality = 0;
  /** Nobody stands at a virtual machine, unless its platform says so. */
  physicalPresence = false;
  /** The event sequence of the H-CRTM or DRTM that is under way. */
  drtm: Sequence | undefined;
  /** _TPM_Hash_Start came before Startup. */
  drtmPreStartup = false;
  /** TPM_ACCESS.tpmEstablishment: a dynamic launch has been measured. */
  established = false;
  /** TPMA_STARTUP_CLEAR.orderly: the last power cycle had ended orderly. */
  wasOrderly = false;
  cancelled = false;
  startupLocality = 0;
  /** PCR_Allocate has been called: the state saved would not fit the banks of the next start. */
  pcrReconfigured = false;

  private readonly crashOnly: boolean;
  /** The last command that had a number, and its response. */
  private answer = { number: 0, response: Buffer.alloc(0) as Buffer };
  private readonly dirty = new Map<string, (() => Buffer) | undefined>();
  private shutdownState: { clear: ClearData; reset: ResetData } | undefined;

  constructor(options: TpmOptions = {}) {
    this.store = options.store ?? new MemoryStore();
    this.onFailure = options.onFailure ?? (() => {});
    this.crashOnly = options.crashOnly ?? false;
    this.isCancelled = options.cancelled;
    const records = this.store.load();
    const saved = records.get('persistent');
    this.persistent = saved ? decode(persistent, saved) : this.manufactured();
    const clock = records.get('clock');
    this.clock = new Clock(options.now, clock && decode(clockRecord, clock));
    this.pcrs = new PcrBanks(this.persistent.pcrAllocation);
    for (const [name, data] of records) {
      if (name.startsWith('nv/')) this.nv.set(Number.parseInt(name.slice(3), 16), decode(nvRecord, data));
      if (name.startsWith('obj/')) {
        this.evicted.set(Number.parseInt(name.slice(4), 16), decode(loadedObject, data));
      }
    }
    const savedClear = records.get('clear');
    const savedReset = records.get('reset');
    if (savedClear && savedReset) {
      this.shutdownState = { clear: decode(clearData, savedClear), reset: decode(resetData, savedReset) };
    }
    this.clear = this.freshClear();
    this.reset = this.freshReset();
    if (!saved) {
      this.touchPersistent();
      this.touchClock();
    }
    const run = records.get(runRecord);
    if (run && options.resume) this.resumeRun(run);
    // Of an earlier power cycle: nobody may go on from it.
    else if (run && !this.crashOnly) this.dirty.set(runRecord, undefined);
    if (this.dirty.size > 0 || this.crashOnly) this.flush();
  }

  /** Throws when the record is damaged: what a store gives back is what it was given. */
  private resumeRun(run: Buffer): void {
    const { number, response, state } = decode(runRecordBody, run);
    if (!restoreVolatile(this, state, true)) throw new Error('the volatile state of the TPM is damaged');
    this.answer = { number, response };
  }
  /** The response of command `number`, if it is the last one that was executed. */
  answered(number: number): Buffer | undefined {
    return number !== 0 && this.answer.number === number ? this.answer.response : undefined;
  }

  /** The state in which a TPM leaves its manufacturer. */
  private manufactured(): Persistent {
    const seed = () => randomBytes(LIMIT.digest);
    return {
      owner: noAuth(),
      endorsement: noAuth(),
      lockout: noAuth(),
      eps: seed(),
      sps: seed(),
      pps: seed(),
      ehProof: seed(),
      shProof: seed(),
      phProof: seed(),
      resetCount: 0,
      totalResetCount: 0n,
      pcrAllocation: defaultAllocation(),
      pcrPolicy: noAuth(),
      ppList: [],
      failedTries: 0,
      maxTries: 3,
      recoveryTime: 1000,
      lockoutRecovery: 1000,
      lockoutEnabled: 1,
      disableClear: 0,
      auditAlg: ALG.SHA256,
      auditList: [],
      auditCounter: 0n,
      algorithmSet: 0,
      orderly: ORDERLY.CLEAR,
      maxCounter: 0n,
    };
  }

  freshClear(): ClearData {
    return {
      shEnable: 1,
      ehEnable: 1,
      phEnableNV: 1,
      platform: noAuth(),
      pcrs: [],
      pcrAuth: Array.from({ length: LIMIT.pcrs }, () => Buffer.alloc(0)),
    };
  }
  freshReset(): ResetData {
    return {
      nullSeed: randomBytes(LIMIT.digest),
      nullProof: randomBytes(LIMIT.digest),
      restartCount: 0,
      clearCount: 0,
      objectContextId: 0n,
      contextCounter: BigInt(LIMIT.sessions) + 1n,
      saved: [],
      commandAuditDigest: Buffer.alloc(0),
      pcrCounter: 0,
      commitNonce: randomBytes(LIMIT.digest),
      commitCounter: 0n,
      commitUsed: Buffer.alloc(8),
    };
  }

  /** The signal _TPM_Init: power comes (back). */
  init(): void {
    this.started = false;
    this.failed = false;
    this.objects.fill(undefined);
    this.sessions.clear();
    this.exclusiveAudit = RH.UNASSIGNED;
    this.drtm = undefined;
    this.drtmPreStartup = false;
    this.cancelled = false;
    this.locality = 0;
    this.clock.powerOn();
  }

  // Measurement by hardware (part 1, 34.1 and 36): before Startup of the H-CRTM into PCR 0, after it of the DRTM into 17.
  hashStart(): void {
    this.drtm = Sequence.event(Buffer.alloc(0));
    this.established = true;
  }
  hashData(data: Buffer): void {
    this.drtm?.update(data);
  }
  hashEnd(): void {
    if (!this.drtm) return;
    const digests = this.drtm.finish();
    this.drtm = undefined;
    const pcr = this.started ? 17 : 0;
    if (this.started) for (let i = 17; i <= 22; i++) this.pcrs.set(i, 0);
    else {
      this.drtmPreStartup = true;
      for (const values of this.pcrs.banks.values()) values[0]?.fill(0).fill(4, values[0].length - 1);
    }
    for (const { alg, digest } of digests) this.pcrs.extend(alg, pcr, digest);
    this.reset.pcrCounter++;
  }
  /** A command ends a measurement that is under way. */
  endDrtm(): void {
    this.drtm = undefined;
  }

  /** For what takes long: refuses with RC.CANCELED when nobody waits for it any more. Nothing has been changed yet then. */
  readonly pause = (): void => {
    if (this.cancelled || this.isCancelled?.()) refuse(RC.CANCELED);
  };

  /** Authorization of a permanent handle that has one. */
  hierarchyAuth(handle: number): HierarchyAuth | undefined {
    switch (handle) {
      case RH.OWNER:
        return this.persistent.owner;
      case RH.ENDORSEMENT:
        return this.persistent.endorsement;
      case RH.LOCKOUT:
        return this.persistent.lockout;
      case RH.PLATFORM:
        return this.clear.platform;
      default:
        return undefined;
    }
  }
  hierarchyEnabled(handle: number): boolean {
    switch (handle) {
      case RH.OWNER:
        return this.clear.shEnable === 1;
      case RH.ENDORSEMENT:
        return this.clear.ehEnable === 1;
      case RH.PLATFORM:
        return this.phEnable;
      default:
        return true;
    }
  }
  /** The secret that tickets and contexts of a hierarchy are keyed with. */
  proof(hierarchy: number): Buffer {
    switch (hierarchy) {
      case RH.PLATFORM:
        return this.persistent.phProof;
      case RH.ENDORSEMENT:
        return this.persistent.ehProof;
      case RH.OWNER:
        return this.persistent.shProof;
      default:
        return this.reset.nullProof;
    }
  }
  seed(hierarchy: number): Buffer {
    switch (hierarchy) {
      case RH.PLATFORM:
        return this.persistent.pps;
      case RH.ENDORSEMENT:
        return this.persistent.eps;
      case RH.OWNER:
        return this.persistent.sps;
      default:
        return this.reset.nullSeed;
    }
  }

  // Keeping
  touchPersistent(): void {
    this.dirty.set('persistent', () => encode(persistent, this.persistent));
  }
  touchClock(): void {
    this.dirty.set('clock', () => encode(clockRecord, this.clock.record()));
  }
  touchNv(handle: number): void {
    const index = this.nv.get(handle);
    this.dirty.set(`nv/${handleName(handle)}`, index && (() => encode(nvRecord, index)));
  }
  touchEvicted(handle: number): void {
    const object = this.evicted.get(handle);
    this.dirty.set(`obj/${handleName(handle)}`, object && (() => encode(loadedObject, object)));
  }
  /** Saves what Startup(STATE) wants back, or forgets it. */
  keepShutdownState(keep: boolean): void {
    if (!keep && !this.shutdownState) return;
    this.shutdownState = undefined;
    if (keep) {
      const clear = encode(clearData, this.clear);
      const reset = encode(resetData, this.reset);
      this.shutdownState = { clear: decode(clearData, clear), reset: decode(resetData, reset) };
      this.dirty.set('clear', () => clear);
      this.dirty.set('reset', () => reset);
    } else {
      this.dirty.set('clear', undefined);
      this.dirty.set('reset', undefined);
    }
  }
  takeShutdownState(): { clear: ClearData; reset: ResetData } | undefined {
    return this.shutdownState;
  }
  /** A change that an orderly shutdown before it no longer covers. */
  clearOrderly(): void {
    if (this.persistent.orderly === ORDERLY.NONE) return;
    this.persistent.orderly = ORDERLY.NONE;
    this.touchPersistent();
  }
  /** A signal of the platform changed volatile state outside of a command: commits it. */
  commitSignal(): void {
    if (this.crashOnly) this.flush();
  }
  /**
   * Makes the marked records durable, in one commit. In it is the response of command `number`, which a successor then gives
   * instead of executing it again; 0: it has none.
   */
  flush(number = 0, response?: Buffer): void {
    if (this.clock.due()) {
      // What was reported before is stored now: Clock will not be seen to go back.
      this.clock.safe = 1;
      this.touchClock();
    }
    const durable = this.dirty.size > 0;
    if (!durable && !this.crashOnly) return;
    const changes = new Map<string, Buffer | undefined>();
    for (const [name, encodeIt] of this.dirty) changes.set(name, encodeIt?.());
    this.dirty.clear();
    if (this.crashOnly) {
      if (number !== 0 && response) this.answer = { number, response: Buffer.from(response) };
      changes.set(runRecord, encode(runRecordBody, { ...this.answer, state: saveVolatile(this) }));
    }
    this.store.commit(changes, durable);
  }
}
