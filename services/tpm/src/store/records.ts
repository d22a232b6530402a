/** Changes to records as octets: (u8 kind, u16 length, name, [u32 length, data])*, kind 1 put, 2 delete. */
import { Reader, Writer } from '../spec/codec.ts';
import { Refusal } from '../spec/refusal.ts';

export type Changes = Iterable<[string, Buffer | undefined]>;

export function encodeChanges(changes: Changes): Buffer {
  const w = new Writer(1024);
  for (const [name, data] of changes) {
    w.u8(data ? 1 : 2);
    const n = Buffer.from(name);
    w.u16(n.length);
    w.bytes(n);
    if (data) {
      w.u32(data.length);
      w.bytes(data);
    }
  }
  return w.done();
}

/** False: `body` is not what `encodeChanges` makes; some changes may have been made. */
export function applyChanges(records: Map<string, Buffer>, body: Buffer): boolean {
  const r = new Reader(body);
  try {
    while (r.left > 0) {
      const kind = r.u8();
      const name = r.bytes(r.u16()).toString();
      if (kind === 1) records.set(name, r.bytes(r.u32()));
      else if (kind === 2) records.delete(name);
      else return false;
    }
    return true;
  } catch (e) {
    if (e instanceof Refusal) return false;
    throw e;
  }
}
