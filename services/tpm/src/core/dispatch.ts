/**
 * From command octets to response octets (part 3, 5): header, handles, sessions, parameters, action, response. Whatever
 * the octets are, the answer is the response code that the specification gives them.
 */

import { handlers } from '../commands/index.ts';
import { type Codec, Reader, Writer } from '../spec/codec.ts';
import { byCode, type Command, type CommandName, type In, type Out } from '../spec/commands.ts';
import { LIMIT, RC, RC_P, ST } from '../spec/constants.ts';
import { modify, Refusal, refuse } from '../spec/refusal.ts';
import { authorize, authorizeNothing, finishSessions, parseSessions } from './auth.ts';
import { Call } from './call.ts';
import { checkLoaded } from './entity.ts';
import type { Tpm } from './tpm.ts';

/** An action of part 3: what the command does when everything around it is in order. */
export type Handler<N extends CommandName> = (
  tpm: Tpm,
  input: In<N>,
  call: Call,
) => keyof Out<N> extends never ? Out<N> | void : Out<N>;
export type Handlers = { [N in CommandName]?: Handler<N> };

interface Compiled {
  name: CommandName;
  command: Command;
  handles: [string, Command['handles'][string]][];
  params: [string, Codec<unknown>][];
  out: [string, Codec<unknown>][];
  action: (tpm: Tpm, input: never, call: Call) => unknown;
}
const compiled = new Map<number, Compiled>();
for (const [code, [name, command]] of byCode) {
  const action = handlers[name] as Compiled['action'] | undefined;
  if (!action) continue;
  compiled.set(code, {
    name,
    command,
    handles: Object.entries(command.handles),
    params: Object.entries(command.params),
    out: Object.entries(command.out),
    action,
  });
}

/**
 * TPM_RC_BAD_TAG is to have the tag of TPM 1.2 (part 2, 6.9). OVMF asks in the way of TPM 1.2 what is there, and takes
 * whatever answers with such a tag for one; swtpm does not answer so, and neither do we.
 */
export function errorResponse(rc: number): Buffer {
  const b = Buffer.allocUnsafe(10);
  b.writeUInt16BE(ST.NO_SESSIONS, 0);
  b.writeUInt32BE(10, 2);
  b.writeUInt32BE(rc, 6);
  return b;
}

const inFailureMode: ReadonlySet<CommandName> = new Set(['GetTestResult', 'GetCapability']);

/**
 * Executes one command at the locality of the TPM and makes what it changed durable. `number`: see Tpm.flush; from 1, and
 * another one for the next command.
 */
export function execute(tpm: Tpm, bytes: Buffer, number = 0): Buffer {
  const response = executeShared(tpm, bytes, number);
  const own = Buffer.allocUnsafe(response.length);
  own.set(response);
  return own;
}

/** The same for who uses the response at once: it lies where the next one will be. */
export function executeShared(tpm: Tpm, bytes: Buffer, number = 0): Buffer {
  let response: Buffer;
  try {
    tpm.clock.tick();
    if (tpm.started) tpm.da.heal();
    response = run(tpm, bytes);
  } catch (e) {
    if (e instanceof Refusal) response = errorResponse(e.rc);
    else {
      // Not the guest's doing: failure mode (part 1, 12.4).
      tpm.failed = true;
      tpm.onFailure(e);
      response = errorResponse(RC.FAILURE);
    }
  }
  try {
    tpm.flush(number, response);
  } catch (e) {
    tpm.failed = true;
    tpm.onFailure(e);
    return errorResponse(RC.FAILURE);
  }
  return response;
}

function run(tpm: Tpm, bytes: Buffer): Buffer {
  const r = new Reader(bytes);
  const tag = r.u16();
  if (tag !== ST.SESSIONS && tag !== ST.NO_SESSIONS) refuse(RC.BAD_TAG);
  const size = r.u32();
  if (size !== bytes.length || size > LIMIT.command) refuse(RC.COMMAND_SIZE);
  const code = r.u32();
  const c = compiled.get(code);
  if (tpm.failed && !(c && inFailureMode.has(c.name))) refuse(RC.FAILURE);
  if (!c) refuse(RC.COMMAND_CODE);
  if (tpm.started === (c.name === 'Startup') && !tpm.failed) refuse(RC.INITIALIZE);
  const call = new Call(tpm, c.name, c.command);
  tpm.endDrtm();

  const input: Record<string, unknown> = {};
  for (let i = 0; i < c.handles.length; i++) {
    const [name, spec] = c.handles[i]!;
    if (r.left < 4) refuse(modify(RC.INSUFFICIENT, 0, i + 1));
    const h = r.u32();
    if (!spec.accepts(h)) refuse(modify(RC.VALUE, 0, i + 1));
    call.handles.push(h);
    input[name] = h;
  }
  checkLoaded(tpm, call.handles);

  if (tag === ST.SESSIONS) {
    const authSize = r.u32();
    if (authSize < 9 || authSize > r.left) refuse(RC.SIZE);
    parseSessions(call, r, authSize);
  }
  call.paramsAt(bytes, r.pos);
  if (tag === ST.SESSIONS) {
    authorize(call);
    call.decryptParams();
  } else authorizeNothing(call);

  const p = call.decryptor ? new Reader(call.params) : r;
  let i = 0;
  try {
    for (; i < c.params.length; i++) {
      const [name, codec] = c.params[i]!;
      input[name] = codec.read(p, input);
    }
  } catch (e) {
    if (e instanceof Refusal) refuse(modify(e.rc, RC_P, i + 1));
    throw e;
  }
  if (p.left > 0) refuse(RC.SIZE);

  const out = (c.action(tpm, input as never, call) ?? {}) as Record<string, unknown>;
  return respond(call, c, tag, out);
}

/** Where responses are put together. */
const writer = new Writer(LIMIT.response);

function respond(call: Call, c: Compiled, tag: number, out: Record<string, unknown>): Buffer {
  const w = writer.clear();
  const sessions = tag === ST.SESSIONS;
  w.u16(tag);
  w.u32(0);
  w.u32(RC.SUCCESS);
  if (c.command.handleOut) w.u32(out.handle as number);
  if (sessions) w.u32(0);
  const params = w.pos;
  for (const [name, codec] of c.out) codec.write(w, out[name], out);
  if (sessions) w.buf.writeUInt32BE(w.pos - params, params - 4);
  finishSessions(call, w, params, sessions);
  call.end();
  w.buf.writeUInt32BE(w.pos, 2);
  return w.view();
}
