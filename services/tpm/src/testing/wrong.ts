/** Commands made wrong: cut, lengthened, every number in them changed, handles and sessions misused. */
import { byCode } from '../spec/commands.ts';
import { RH, ST } from '../spec/constants.ts';
import { H } from './corpus.ts';

export interface Wrong {
  what: string;
  bytes: Buffer;
}

const u32 = (v: number) => {
  const b = Buffer.alloc(4);
  b.writeUInt32BE(v >>> 0);
  return b;
};
const sized = (b: Buffer) => {
  b.writeUInt32BE(b.length, 2);
  return b;
};

/** Of every type, loaded or not, and reserved ones. */
const handles = [
  ...[
    RH.OWNER,
    RH.NULL,
    RH.PLATFORM,
    RH.ENDORSEMENT,
    RH.LOCKOUT,
    RH.PW,
    RH.UNASSIGNED,
    0x40000000,
    0x4000000d,
  ],
  ...[0, 16, 20, 23, 24, 0x00ffffff],
  ...[H.storage, H.signer, 0x80000002, 0x80000003, 0x80ffffff],
  ...[H.hmac, H.cipher, H.rsa, H.sealed, H.ecdh, 0x81800000, 0x81ffffff],
  ...[H.nv, H.counter, H.bits, H.extend, 0x01ffffff],
  ...[H.session, H.policy, 0x02000001, 0x03000000, 0x02000009, 0x03ffffff],
  ...[0x04000000, 0x90000000, 0xffffffff],
];

/** A session: handle, nonce, attributes, HMAC. */
const session = (handle: number, nonce: Buffer, attributes: number, hmac: Buffer) =>
  Buffer.concat([
    u32(handle),
    Buffer.of(0, nonce.length),
    nonce,
    Buffer.of(attributes, 0, hmac.length),
    hmac,
  ]);
const none = Buffer.alloc(0);
const digest = Buffer.alloc(32, 5);

function* sessionAreas(): Generator<[string, Buffer]> {
  const pw = session(RH.PW, none, 1, none);
  for (const h of [
    RH.PW,
    H.session,
    H.policy,
    0x02000005,
    0x03000000,
    0x03000009,
    RH.OWNER,
    H.storage,
    H.nv,
  ]) {
    for (const a of [0, 1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80, 0x81, 0xa1, 0xc1, 0xe1, 0xff]) {
      yield [`session ${h.toString(16)} attributes ${a}`, session(h, none, a, none)];
      yield [
        `password, session ${h.toString(16)} attributes ${a}`,
        Buffer.concat([pw, session(h, none, a, none)]),
      ];
    }
    yield [`session ${h.toString(16)} with a nonce`, session(h, digest, 1, none)];
    yield [`session ${h.toString(16)} with an HMAC`, session(h, digest, 1, digest)];
    yield [`session ${h.toString(16)} with a password`, session(h, none, 1, Buffer.from('wrong'))];
    yield [
      `session ${h.toString(16)} twice`,
      Buffer.concat([session(h, none, 1, none), session(h, none, 1, none)]),
    ];
  }
  for (let n = 0; n <= 5; n++) yield [`${n} passwords`, Buffer.concat(Array.from({ length: n }, () => pw))];
  for (let n = 1; n < pw.length; n++) yield [`session cut after ${n}`, pw.subarray(0, n)];
}

/** All ways to make a valid command wrong. */
export function* wrongs(valid: Buffer): Generator<Wrong> {
  yield { what: 'valid', bytes: valid };
  for (let n = 0; n < valid.length; n++) {
    if (n >= 10) yield { what: `cut after ${n}`, bytes: sized(Buffer.from(valid.subarray(0, n))) };
  }
  for (const n of [1, 2, 100]) {
    yield { what: `${n} more`, bytes: sized(Buffer.concat([valid, Buffer.alloc(n)])) };
    yield {
      what: `${n} more, of which the size says nothing`,
      bytes: Buffer.concat([valid, Buffer.alloc(n)]),
    };
  }
  for (let at = 0; at + 2 <= valid.length; at++) {
    const old = valid.readUInt16BE(at);
    for (const v of [0, 1, 0xffff, old + 1, old - 1, old ^ 0x80, old ^ 0x8000]) {
      // The size of the whole is tried above; a longer one is no command yet on a socket.
      if (v === old || v < 0 || v > 0xffff || (at > 0 && at < 6)) continue;
      const bytes = Buffer.from(valid);
      bytes.writeUInt16BE(v, at);
      yield { what: `at ${at} ${old.toString(16)} is ${v.toString(16)}`, bytes };
    }
  }
  const command = byCode.get(valid.readUInt32BE(6))![1];
  const roles = Object.values(command.handles);
  for (const [i] of roles.entries()) {
    for (const h of handles) {
      const bytes = Buffer.from(valid);
      bytes.writeUInt32BE(h >>> 0, 10 + 4 * i);
      yield { what: `handle ${i + 1} is ${h.toString(16)}`, bytes };
    }
  }
  const end = 10 + 4 * roles.length;
  const sessions = valid.readUInt16BE(0) === ST.SESSIONS;
  const params = valid.subarray(end + (sessions ? 4 + valid.readUInt32BE(end) : 0));
  const head = Buffer.from(valid.subarray(0, end));
  head.writeUInt16BE(ST.SESSIONS);
  for (const [what, area] of sessionAreas()) {
    yield { what, bytes: sized(Buffer.concat([head, u32(area.length), area, params])) };
  }
  for (const size of [0, 8, 10, 0xffff, 0xffffffff]) {
    const area = session(RH.PW, none, 1, none);
    yield { what: `session area of ${size}`, bytes: sized(Buffer.concat([head, u32(size), area, params])) };
  }
  const bare = Buffer.from(head);
  bare.writeUInt16BE(ST.NO_SESSIONS);
  yield { what: 'no sessions', bytes: sized(Buffer.concat([bare, params])) };
}

/** The same numbers for the same seed. */
export function seeded(seed: number): (below: number) => number {
  let s = seed >>> 0 || 1;
  return (below) => {
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    return (s >>> 0) % below;
  };
}

/** Several random changes at once. */
export function mutate(valid: Buffer, rand: (below: number) => number): Buffer {
  let b = Buffer.from(valid);
  for (let i = 1 + rand(4); i > 0; i--) {
    const at = rand(b.length);
    switch (rand(6)) {
      case 0:
        b[at] = rand(256);
        break;
      case 1:
        b[at]! ^= 1 << rand(8);
        break;
      case 2:
        if (at + 4 <= b.length) b.writeUInt32BE(handles[rand(handles.length)]! >>> 0, at);
        break;
      case 3:
        if (at + 2 <= b.length) b.writeUInt16BE([0, 1, 0x10, 0xb, 0xffff, b.length][rand(6)]!, at);
        break;
      case 4:
        b = Buffer.concat([b.subarray(0, at), b.subarray(at + 1 + rand(4))]);
        break;
      default:
        b = Buffer.concat([b.subarray(0, at), Buffer.alloc(1 + rand(8), rand(256)), b.subarray(at)]);
    }
    if (b.length < 10) b = Buffer.from(valid);
  }
  return rand(8) ? sized(b) : b;
}
