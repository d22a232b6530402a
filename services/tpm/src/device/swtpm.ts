/**
 * swtpm as the engine of a device: commands on its data socket, everything else on its control socket (swtpm:
 * include/swtpm/tpm_ioctl.h). The supervisor has made both connections, so they outlive this process. swtpm does not number
 * commands, hence the care: what this process does to a command is in memory that outlives it.
 *
 *   number of the command, into the slot -> command, into the socket -> response, by the kernel straight into the slot
 *
 * A successor that finds the number without a response asks swtpm two questions on the control socket. swtpm looks at both
 * sockets between one answer and the next, so when it has answered twice, the command has either been executed, and the response
 * is there, or was never sent. Answers to a predecessor may be on their way, too: the first question is one whose answer looks
 * like no other, and what comes before it is not ours. (A process that dies within milliseconds after its predecessor, while it
 * asks the same, can be mistaken in this.)
 */
import { readSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { DeviceContext } from '@nyx/device';
import { tpmWire, unpackScript } from '@nyx/protocol';
import { type Engine, Op, type Request } from './engine.ts';

const CMD = {
  INIT: 2,
  SET_LOCALITY: 5,
  HASH_START: 6,
  HASH_DATA: 7,
  HASH_END: 8,
  CANCEL: 9,
  STOP: 14,
  SET_BUFFERSIZE: 17,
} as const;
const hashChunk = 4096;
/** Octets of a reply that nobody asked for, at most. */
const mostReply = 4096;
/** TPM_RC_FAILURE: what a TPM says that cannot be reached any more. */
const failure = Uint8Array.of(0x80, 1, 0, 0, 0, 10, 0, 0, 1, 1);

const be32 = (n: number): Buffer => {
  const b = Buffer.alloc(4);
  b.writeUInt32BE(n >>> 0);
  return b;
};
const again = (e: unknown): boolean => (e as { code?: string }).code === 'EAGAIN';

/** CMD_SET_BUFFERSIZE(0) changes nothing; its answer: result, size in use, smallest, largest. */
const question = Buffer.concat([be32(CMD.SET_BUFFERSIZE), be32(0)]);
const answerBytes = 16;
const isAnswer = (b: Buffer): boolean =>
  b.length >= answerBytes && b.readUInt32BE(0) === 0 && [4, 8, 12].every((at) => b.readUInt32BE(at) !== 0);
/** Milliseconds without another answer, until what came last is taken for ours. */
const silence = 30;

export class SwtpmEngine implements Engine {
  readonly #data: number;
  readonly #control: number;
  /** Number of the command under way, and its response. */
  readonly #slot: DataView;
  readonly #response: Uint8Array;
  /** transient: who waits for the reply to what was asked on the control socket */
  #reply: { enough: (b: Buffer) => boolean; got: (b: Buffer | undefined) => void } | undefined;
  /** transient: octets of that reply */
  #partial: Buffer = Buffer.alloc(0);
  /** transient: one question at a time */
  #asking: Promise<unknown> = Promise.resolve();
  /** transient: who waits for the command's response */
  #done: ((response: Uint8Array) => void) | undefined;
  /** transient: octets of the response so far */
  #at = 0;
  /** transient: it is told again by every process */
  #locality = -1;
  /** transient: found out by every process anew */
  #gone = false;

  constructor(private readonly ctx: DeviceContext) {
    this.#data = ctx.fd('data');
    this.#control = ctx.fd('control');
    const bulk = ctx.bulk('buffer');
    this.#slot = new DataView(bulk, tpmWire.slotAt, 16);
    this.#response = new Uint8Array(bulk, tpmWire.slotAt + 16, tpmWire.bufferBytes);
    ctx.watch(this.#control, () => this.#hear(), false);
    ctx.watch(this.#data, () => this.#receive(), false);
  }

  submit(request: Request, done: (response: Uint8Array) => void): void {
    void this.#run(request).then(done);
  }

  cancel(): void {
    void this.#ask(be32(CMD.CANCEL));
  }

  async #run(r: Request): Promise<Uint8Array> {
    if (this.#gone) return failure;
    if (r.op === Op.command) return this.#command(r.number, r.locality, r.data);
    if (r.op === Op.init) {
      // What is left of a command before is nobody's any more.
      await this.#settled();
      this.#drain();
      this.#slot.setUint32(0, 0, true);
      this.#locality = -1;
      await this.#ask(be32(CMD.STOP));
      if (!(await this.#ask(Buffer.concat([be32(CMD.INIT), be32(0)])))) this.#lost('it does not start');
      for (const command of unpackScript(r.data)) await this.#command(0, 0, command);
    } else if (r.op === Op.drtm) {
      await this.#ask(be32(CMD.HASH_START));
      for (let at = 0; at < r.data.length; at += hashChunk) {
        const part = r.data.subarray(at, at + hashChunk);
        await this.#ask(Buffer.concat([be32(CMD.HASH_DATA), be32(part.length), part]));
      }
      await this.#ask(be32(CMD.HASH_END));
    }
    return new Uint8Array(0);
  }

  async #command(number: number, locality: number, data: Uint8Array): Promise<Uint8Array> {
    if (number !== 0 && this.#slot.getUint32(0, true) === number) {
      // A predecessor had it.
      if (this.#complete()) return this.#taken();
      this.#at = 0;
      await this.#settled();
      this.#receive();
      if (this.#complete()) return this.#taken();
    } else {
      if (locality !== this.#locality) {
        await this.#ask(Buffer.concat([be32(CMD.SET_LOCALITY), Uint8Array.of(locality)]));
        this.#locality = locality;
      }
      this.#response.fill(0);
      this.#at = 0;
      this.#slot.setUint32(0, number, true);
    }
    if (this.#gone) return failure;
    return new Promise((resolve) => {
      this.#done = resolve;
      try {
        // swtpm takes a command of 4 KiB at once: its socket is empty.
        writeSync(this.#data, data);
      } catch (e) {
        this.#lost((e as Error).message);
      }
    });
  }

  /** swtpm has looked at both of its sockets since now. */
  async #settled(): Promise<void> {
    if (this.#slot.getUint32(4, true) !== 0) {
      const last = (b: Buffer): boolean => isAnswer(b.subarray(Math.max(0, b.length - answerBytes)));
      await this.#exchange(question, last);
      await sleep(silence);
      this.#partial = Buffer.alloc(0);
    }
    for (let i = 0; i < 2; i++) await this.#exchange(question, isAnswer);
  }

  /** Octets of the response, as its header says. */
  #size(): number {
    const r = this.#response;
    return ((r[2]! << 24) | (r[3]! << 16) | (r[4]! << 8) | r[5]!) >>> 0;
  }
  #complete(): boolean {
    const size = this.#size();
    // What is zero behind the header may not have come; a successor knows no count, but swtpm sends all at once.
    return size >= 10 && (this.#at === 0 || this.#at >= Math.min(size, tpmWire.bufferBytes));
  }
  #taken(): Uint8Array {
    return this.#response.slice(0, Math.min(this.#size(), tpmWire.bufferBytes));
  }

  #receive(): void {
    try {
      const n = readSync(this.#data, this.#response, this.#at, tpmWire.bufferBytes - this.#at, null);
      this.#at += n;
      if (n === 0) this.#lost('it has closed its data socket');
    } catch (e) {
      if (!again(e)) this.#lost((e as Error).message);
      return;
    }
    if (!this.#complete()) return;
    const done = this.#done;
    this.#done = undefined;
    done?.(this.#taken());
  }
  #drain(): void {
    const nowhere = Buffer.alloc(tpmWire.bufferBytes);
    try {
      while (readSync(this.#data, nowhere, 0, nowhere.length, null) > 0);
    } catch {}
  }

  /** A control command; true when swtpm's result is success. */
  async #ask(message: Buffer): Promise<boolean> {
    const reply = await this.#exchange(message, (b) => b.length >= 4);
    return reply !== undefined && reply.readUInt32BE(0) === 0;
  }
  #exchange(message: Buffer, enough: (b: Buffer) => boolean): Promise<Buffer | undefined> {
    const next = this.#asking.then(
      () =>
        new Promise<Buffer | undefined>((got) => {
          if (this.#gone) return got(undefined);
          this.#partial = Buffer.alloc(0);
          this.#reply = { enough, got };
          // A successor learns that a reply may be on its way.
          this.#slot.setUint32(4, 1, true);
          try {
            writeSync(this.#control, message);
          } catch (e) {
            this.#lost((e as Error).message);
          }
        }),
    );
    this.#asking = next;
    return next;
  }
  #hear(): void {
    const chunk = Buffer.alloc(256);
    let n: number;
    try {
      n = readSync(this.#control, chunk, 0, chunk.length, null);
    } catch (e) {
      if (!again(e)) this.#lost((e as Error).message);
      return;
    }
    if (n === 0) {
      this.#lost('it has closed its control socket');
      return;
    }
    this.#partial = Buffer.concat([this.#partial, chunk.subarray(0, n)]);
    if (this.#partial.length > mostReply) {
      this.#lost('it does not stop answering');
      return;
    }
    const reply = this.#reply;
    if (!reply?.enough(this.#partial)) return;
    this.#reply = undefined;
    this.#slot.setUint32(4, 0, true);
    reply.got(this.#partial);
  }

  /** Commands are answered, so that the guest is not left waiting; none of them is executed. */
  #lost(why: string): void {
    if (this.#gone) return;
    this.#gone = true;
    this.ctx.log('error', `swtpm is gone: ${why}; the TPM answers TPM_RC_FAILURE`);
    this.#reply?.got(undefined);
    this.#reply = undefined;
    const done = this.#done;
    this.#done = undefined;
    done?.(failure);
  }
}
