/** One command under way: what was parsed of it, and the sessions that go with it. */
import { be32, hash, none } from '../crypto/hash.ts';
import { cryptParameter } from '../crypto/symmetric.ts';
import type { Command, CommandName } from '../spec/commands.ts';
import { HT, RC, SA } from '../spec/constants.ts';
import { refuse } from '../spec/refusal.ts';
import { handleType } from '../spec/types.ts';
import { authValue, entityName } from './entity.ts';
import type { Session } from './state.ts';
import type { Tpm } from './tpm.ts';

/** A session in the session area. */
export interface SessionUse {
  handle: number;
  /** Undefined for a password. */
  session: Session | undefined;
  nonceCaller: Buffer;
  attributes: number;
  /** Password or HMAC. */
  hmac: Buffer;
  /** The handle that it authorizes. */
  authorizes: number | undefined;
  /** Whether the authValue of that goes into the HMAC key. */
  includeAuth: boolean;
}

export class Call {
  readonly tpm: Tpm;
  readonly name: CommandName;
  readonly command: Command;
  handles: number[] = [];
  sessions: SessionUse[] = [];
  private bytes: Buffer = none;
  private at = 0;
  private ownParams: Buffer | undefined;
  private cpHashes: Map<number, Buffer> | undefined;
  decryptor: SessionUse | undefined;
  encryptor: SessionUse | undefined;
  auditor: SessionUse | undefined;

  constructor(tpm: Tpm, name: CommandName, command: Command) {
    this.tpm = tpm;
    this.name = name;
    this.command = command;
  }

  paramsAt(bytes: Buffer, at: number): void {
    this.bytes = bytes;
    this.at = at;
  }
  /** The parameters as they came; the first one decrypted once the sessions are checked. */
  get params(): Buffer {
    this.ownParams ??= this.bytes.subarray(this.at);
    return this.ownParams;
  }

  names(): Buffer[] {
    return this.handles.map((h) => entityName(this.tpm, h));
  }
  /** Hash of command code, Names and parameters; of the parameters as they came. */
  cpHash(alg: number): Buffer {
    this.cpHashes ??= new Map();
    let h = this.cpHashes.get(alg);
    if (!h) {
      h = hash(alg, be32(this.command.code), ...this.names(), this.params);
      this.cpHashes.set(alg, h);
    }
    return h;
  }

  private sessionValue(use: SessionUse): Buffer {
    const key = use.session!.sessionKey;
    return use.authorizes === undefined ? key : Buffer.concat([key, authValue(this.tpm, use.authorizes)]);
  }

  /** Decrypts the first parameter in place (part 1, 21). */
  decryptParams(): void {
    const use = this.decryptor;
    if (!use) return;
    const s = use.session!;
    const { params } = this;
    if (params.length < 2) refuse(RC.INSUFFICIENT);
    const size = params.readUInt16BE(0);
    if (size > params.length - 2) refuse(RC.SIZE);
    const clear = cryptParameter(
      true,
      s.symmetric,
      s.authHash,
      this.sessionValue(use),
      use.nonceCaller,
      s.nonceTPM,
      params.subarray(2, 2 + size),
    );
    this.ownParams = Buffer.from(params);
    clear.copy(this.ownParams, 2);
  }
  encryptResponse(params: Buffer): void {
    const use = this.encryptor;
    if (!use) return;
    const s = use.session!;
    const size = params.readUInt16BE(0);
    cryptParameter(
      false,
      s.symmetric,
      s.authHash,
      this.sessionValue(use),
      s.nonceTPM,
      use.nonceCaller,
      params.subarray(2, 2 + size),
    ).copy(params, 2);
  }

  /** What a handle was that is gone now authorizes nothing in the response. */
  forget(handle: number): void {
    for (const use of this.sessions) {
      if (use.authorizes === handle) use.authorizes = undefined;
    }
  }

  private afterwards: (() => void)[] | undefined;
  /** Does `f` when the response is complete: what authorizes it must be there until then. */
  later(f: () => void): void {
    this.afterwards ??= [];
    this.afterwards.push(f);
  }
  end(): void {
    if (this.afterwards) for (const f of this.afterwards) f();
  }

  isPolicy(use: SessionUse): boolean {
    return handleType(use.handle) === HT.POLICY_SESSION;
  }
  continues(use: SessionUse): boolean {
    return (use.attributes & SA.continueSession) !== 0;
  }
}
