/** Where the TPM keeps what must survive: named records, changed in groups that take effect together. */
export interface Store {
  /** All records, at the start. */
  load(): Map<string, Buffer>;
  /**
   * One commit point for all of `changes`; `undefined` removes. When it returns they outlive this process, and if `durable`
   * also a loss of power.
   */
  commit(changes: ReadonlyMap<string, Buffer | undefined>, durable: boolean): void;
}

/** The record that does not outlive the power: number of the last command, its response, the volatile state. */
export const runRecord = 'run';

/** For tests and for TPMs whose state is not kept. */
export class MemoryStore implements Store {
  readonly records = new Map<string, Buffer>();
  commits = 0;
  load(): Map<string, Buffer> {
    return new Map(this.records);
  }
  commit(changes: ReadonlyMap<string, Buffer | undefined>): void {
    this.commits++;
    for (const [k, v] of changes) {
      if (v) this.records.set(k, Buffer.from(v));
      else this.records.delete(k);
    }
  }
}
