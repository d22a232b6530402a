/**
 * The consumer of a device process's exit rings. The addon waits, checks and copies each request into `ctl`,
 * commits and publishes (ARCHITECTURE.md, "Exit ring" and "State block"); this class gives it blocks and a
 * handler.
 *
 *     const server = new ExitServer({ rings: mapRings(fd), kick, onExit: () => { ... server.commit(block, lo, hi, status) } });
 *     server.addBlock(block);
 *     const { republished } = server.attach();
 *     ... settle every device ...
 *     server.start();
 */
import { createExitCore, ctl, type ExitCore } from '@nyx/native';
import type { StateBlock } from './block.ts';
import { RingsView } from './rings.ts';

export interface ExitServerOptions {
  /** Mapping of the whole ring memfd. */
  rings: ArrayBuffer;
  /** eventfd that producers write when this process sleeps. */
  kick: number;
  /** One exit, in `ctl`. Must call `commit` or `reply` exactly once. */
  onExit(): void;
  /** Nothing but this thread and its file requests changes what outlives the process (default true). */
  alone?: boolean;
  maxSpinNs?: number;
  maxBusyNs?: number;
  heartbeatMs?: number;
}

export class ExitServer {
  /** The exit being served; words by `ctl` of @nyx/native (kind, width, device, region, offsetLo ...). */
  readonly ctl: Uint32Array;
  readonly view: RingsView;
  /** Burst area of each ring. */
  readonly bursts: readonly Uint8Array[];
  readonly #core: ExitCore;
  readonly #work: () => void;

  constructor(options: ExitServerOptions) {
    this.view = new RingsView(options.rings);
    this.bursts = Array.from({ length: this.view.rings }, (_, i) => this.view.burst(i));
    const { onExit, ...rest } = options;
    const work = (): void => {
      while (core.wait() >= 0) onExit();
    };
    const core: ExitCore = createExitCore({
      ...rest,
      onWork: work,
    });
    this.#work = work;
    this.#core = core;
    this.ctl = core.ctl;
  }

  addBlock(block: StateBlock): void {
    block.index = this.#core.addBlock(block.buffer);
  }

  /** After all blocks: takes over where a predecessor stopped. @throws coded error RING_CORRUPT. */
  attach(): { republished: number; epoch: number } {
    const republished = this.#core.attach();
    return { republished, epoch: this.view.control.epoch };
  }

  /** Serves from the event loop's next turn on. */
  start(): void {
    this.#core.start();
  }

  /** Serves what is there already, now. */
  serve(): void {
    this.#work();
  }

  /** The commit point of the current exit, then its reply. `block.root` moves to the next half. */
  commit(block: StateBlock, replyLo: number, replyHi: number, status: number): void {
    const words = this.ctl;
    words[ctl.block] = block.index;
    words[ctl.replyLo] = replyLo;
    words[ctl.replyHi] = replyHi;
    words[ctl.status] = status;
    this.#core.commit();
    block.flip();
  }

  /** Answers the current exit without a commit: it changed nothing, and asking it again would give the same. */
  reply(replyLo: number, replyHi: number, status: number): void {
    const words = this.ctl;
    words[ctl.replyLo] = replyLo;
    words[ctl.replyHi] = replyHi;
    words[ctl.status] = status;
    this.#core.reply();
  }

  /** Commits a change that is not an exit (timer, host input, I/O completion). */
  commitEvent(block: StateBlock): void {
    this.#core.commitEvent(block.index);
    block.flip();
  }

  /** Throws away what was changed since the last commit. */
  revert(block: StateBlock): void {
    this.#core.revert(block.index);
  }

  /** A fault on purpose, here and now: `ctl` words faultVerb and faultUs. */
  strike(): void {
    this.#core.strike();
  }

  /** Requests that were not well formed; they were answered as unclaimed. */
  get malformed(): number {
    return this.#core.malformed;
  }

  close(): void {
    this.#core.close();
  }
}
