/** The TPM behind the servers: power, platform signals, commands and state blobs, whichever wire they come on. */
import { execute, executeShared } from '../core/dispatch.ts';
import { ORDERLY } from '../core/state.ts';
import { MemoryStore, runRecord, type Store } from '../core/store.ts';
import { Tpm, type TpmOptions } from '../core/tpm.ts';
import { restoreVolatile, saveVolatile } from '../core/volatile.ts';
import { codeOf } from '../spec/commands.ts';
import { RC, ST, SU } from '../spec/constants.ts';
import { BLOB, packBlob, packRecords, unpackBlob, unpackRecords } from '../store/blobs.ts';

const be = (tag: number, code: number, parameter: number) => {
  const b = Buffer.alloc(12);
  b.writeUInt16BE(tag, 0);
  b.writeUInt32BE(12, 2);
  b.writeUInt32BE(code, 6);
  b.writeUInt16BE(parameter, 10);
  return b;
};

/** A volatile state that waits for the next `init`. */
const volatileRecord = 'volatile';
const notPermanent: ReadonlySet<string> = new Set([runRecord, volatileRecord]);

export interface HostOptions extends TpmOptions {
  /** State blobs are sealed with it, unless they are asked for in the clear. */
  blobKey?: Buffer;
}

export class TpmHost {
  private readonly options: HostOptions;
  private readonly store: Store;
  private current: Tpm | undefined;

  constructor(options: HostOptions) {
    this.store = options.store ?? new MemoryStore();
    this.options = { ...options, store: this.store };
  }

  get running(): boolean {
    return this.current !== undefined;
  }
  get tpm(): Tpm | undefined {
    return this.current;
  }
  get hasKey(): boolean {
    return this.options.blobKey !== undefined;
  }

  /** Power on, or reset: everything volatile is lost. */
  powerOn(): void {
    this.current = new Tpm(this.options);
  }
  /** Goes on from the store as the successor of a killed process does (options.crashOnly). */
  resume(): void {
    this.current = new Tpm({ ...this.options, resume: true });
  }
  /** Power on; if a volatile state was stored it goes on from there. `forget`: the next time it will not. False: it is damaged. */
  init(forget: boolean): boolean {
    this.powerOn();
    const saved = this.store.load().get(volatileRecord);
    if (!saved) return true;
    const good = restoreVolatile(this.current!, saved, false);
    if (good) this.current!.commitSignal();
    else this.powerOff();
    if (forget) this.store.commit(new Map([[volatileRecord, undefined]]), true);
    return good;
  }
  powerOff(): void {
    this.current = undefined;
  }
  /** Startup(CLEAR) in the name of a host that leaves it to the TPM. */
  startupClear(): void {
    if (!this.current?.started) this.command(be(ST.NO_SESSIONS, codeOf('Startup'), SU.CLEAR), 0);
  }
  /** An orderly end in the name of a guest that had none: Shutdown(STATE), or (CLEAR) where that cannot be. */
  shutdown(): void {
    const tpm = this.current;
    if (!tpm?.started || tpm.persistent.orderly !== ORDERLY.NONE) return;
    for (const type of [SU.STATE, SU.CLEAR]) {
      const response = this.command(be(ST.NO_SESSIONS, codeOf('Shutdown'), type), 0);
      if (response?.readUInt32BE(6) === RC.SUCCESS) return;
    }
  }

  /** Executes a command at a locality. Undefined while the power is off. `shared`: the response lies where the next one will be. */
  command(bytes: Buffer, locality: number, shared = false): Buffer | undefined {
    const tpm = this.current;
    if (!tpm) return undefined;
    tpm.locality = locality;
    const response = shared ? executeShared(tpm, bytes) : execute(tpm, bytes);
    tpm.cancelled = false;
    return response;
  }

  /** Keeps the volatile state for the next `init`. */
  storeVolatile(): void {
    if (this.current) this.store.commit(new Map([[volatileRecord, saveVolatile(this.current)]]), true);
  }
  /** A state blob of a running TPM; a savestate has none: what Shutdown(STATE) saves is part of the permanent state. */
  stateBlob(type: number, clear: boolean): Buffer | undefined {
    const tpm = this.current;
    const key = clear ? undefined : this.options.blobKey;
    if (!tpm) return undefined;
    switch (type) {
      case BLOB.PERMANENT: {
        const records = [...this.store.load()].filter(([name]) => !notPermanent.has(name));
        return packBlob(type, packRecords(new Map(records)), key);
      }
      case BLOB.VOLATILE:
        return packBlob(type, saveVolatile(tpm), key);
      case BLOB.SAVESTATE:
        return Buffer.alloc(0);
      default:
        return undefined;
    }
  }
  /**
   * Replaces a part of the state of a TPM that is off. Nothing changes unless the blob is whole, and of this TPM's making or
   * sealed with its key.
   */
  setStateBlob(type: number, blob: Buffer): 'done' | 'damaged' | 'key' {
    if (type === BLOB.SAVESTATE) return blob.length === 0 ? 'done' : 'damaged';
    const current = this.store.load();
    const changes = new Map<string, Buffer | undefined>();
    // The volatile state goes with the permanent one that it was saved with.
    if (type === BLOB.PERMANENT) for (const name of current.keys()) changes.set(name, undefined);
    else if (type === BLOB.VOLATILE) changes.set(volatileRecord, undefined);
    else return 'damaged';
    if (blob.length > 0) {
      const u = unpackBlob(type, blob, this.options.blobKey);
      if ('wrong' in u) return u.wrong;
      if (type === BLOB.VOLATILE) changes.set(volatileRecord, u.body);
      const records = type === BLOB.PERMANENT ? unpackRecords(u.body) : current;
      if (!records || !this.works(records, type === BLOB.VOLATILE ? u.body : undefined)) return 'damaged';
      if (type === BLOB.PERMANENT) for (const [name, data] of records) changes.set(name, data);
    }
    this.store.commit(changes, true);
    return 'done';
  }
  /** Whether a TPM starts from these records, and from this volatile state. */
  private works(records: ReadonlyMap<string, Buffer>, state?: Buffer): boolean {
    const store = new MemoryStore();
    store.commit(records);
    try {
      const tpm = new Tpm({ store });
      return !state || restoreVolatile(tpm, state, false);
    } catch {
      return false;
    }
  }
}
