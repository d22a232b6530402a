/** Commands made from the same tables that read them, for tests: a client of the TPM in the process. */
import { execute } from '../core/dispatch.ts';
import { Tpm, type TpmOptions } from '../core/tpm.ts';
import { Reader, Writer } from '../spec/codec.ts';
import { type Command, type CommandName, commands, type In, type Out } from '../spec/commands.ts';
import { ALG, OA, RC, RH, ST, SU } from '../spec/constants.ts';
import { nullScheme, nullSym, type PublicArea } from '../spec/types.ts';

const none = Buffer.alloc(0);

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

export class Client {
  tpm: Tpm;
  failure: unknown;

  constructor(options: TpmOptions = {}) {
    this.tpm = new Tpm({ ...options, onFailure: (e) => (this.failure = e) });
  }
  startup(type: number = SU.CLEAR): this {
    this.ok('Startup', { startupType: type });
    return this;
  }
  raw(bytes: Buffer): Buffer {
    return execute(this.tpm, bytes);
  }
  /** The response code. */
  rc<N extends CommandName>(name: N, input: In<N>, ...passwords: string[]): number {
    return rcOf(this.raw(commandBytes(name, input, ...passwords)));
  }
  /** The results; throws unless the command succeeds. */
  ok<N extends CommandName>(name: N, input: In<N>, ...passwords: string[]): Out<N> {
    const response = this.raw(commandBytes(name, input, ...passwords));
    const rc = rcOf(response);
    if (rc !== RC.SUCCESS)
      throw new Error(`${name}: response code 0x${rc.toString(16)} ${this.failure ?? ''}`);
    return parseResponse(name, response);
  }

  /** A primary object of the owner. */
  primary(pub: PublicArea, auth = ''): number {
    return this.ok('CreatePrimary', {
      primaryHandle: RH.OWNER,
      inSensitive: { userAuth: Buffer.from(auth), data: none },
      inPublic: pub,
      outsideInfo: none,
      creationPCR: [],
    }).handle;
  }
}

const fixed = OA.fixedTPM | OA.fixedParent | OA.sensitiveDataOrigin | OA.userWithAuth;
const parms = {
  symmetric: nullSym,
  scheme: nullScheme,
  keyBits: 0,
  exponent: 0,
  curveID: 3,
  kdf: nullScheme,
};
const publicOf = (type: number, attributes: number, parameters: Partial<typeof parms>): PublicArea => ({
  type,
  nameAlg: ALG.SHA256,
  objectAttributes: fixed | attributes,
  authPolicy: none,
  parameters: { ...parms, ...parameters },
  unique: { x: none, y: none },
});
const aes = { algorithm: ALG.AES, keyBits: 128, mode: ALG.CFB };
export const templates = {
  storage: publicOf(ALG.ECC, OA.restricted | OA.decrypt | OA.noDA, { symmetric: aes }),
  signer: publicOf(ALG.ECC, OA.sign | OA.noDA, {}),
  attester: publicOf(ALG.ECC, OA.sign | OA.restricted | OA.noDA, {
    scheme: { ...nullScheme, scheme: ALG.ECDSA, hashAlg: ALG.SHA256 },
  }),
  rsa: publicOf(ALG.RSA, OA.sign | OA.decrypt | OA.noDA, { keyBits: 1024 }),
};
