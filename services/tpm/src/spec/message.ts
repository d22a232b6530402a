/** Whole commands and responses from the tables that the dispatcher reads them with: for who talks to the TPM in its process. */
import { Reader, Writer } from './codec.ts';
import { type Command, type CommandName, commands, type In, type Out } from './commands.ts';
import { RH, ST } from './constants.ts';

/** The octets of a command; every handle that needs it is authorized by a password. */
export function commandBytes<N extends CommandName>(name: N, input: In<N>, ...passwords: string[]): Buffer {
  const c = commands[name] as unknown as Command;
  const values = input as Record<string, unknown>;
  const needs = Object.values(c.handles).filter((h) => h.role !== 'none').length;
  const w = new Writer();
  w.u16(needs ? ST.SESSIONS : ST.NO_SESSIONS);
  w.u32(0);
  w.u32(c.code);
  for (const h of Object.keys(c.handles)) w.u32(values[h] as number);
  if (needs) {
    const area = new Writer();
    for (let i = 0; i < needs; i++) {
      const password = Buffer.from(passwords[i] ?? '');
      area.u32(RH.PW);
      area.u16(0);
      area.u8(1);
      area.u16(password.length);
      area.bytes(password);
    }
    w.u32(area.pos);
    w.bytes(area.done());
  }
  for (const [p, codec] of Object.entries(c.params)) codec.write(w, values[p], values);
  w.buf.writeUInt32BE(w.pos, 2);
  return w.done();
}

export const rcOf = (response: Buffer): number => response.readUInt32BE(6);

/** The results in a response that tells of success. */
export function parseResponse<N extends CommandName>(name: N, response: Buffer): Out<N> {
  const c = commands[name] as unknown as Command;
  const r = new Reader(response, 10);
  const out: Record<string, unknown> = {};
  if (c.handleOut) out.handle = r.u32();
  if (response.readUInt16BE(0) === ST.SESSIONS) r.u32();
  for (const [p, codec] of Object.entries(c.out)) out[p] = codec.read(r, out);
  return out as Out<N>;
}
