/**
 * The process that will serve a place next. It has the role, has mapped and made everything, and waits for the death of
 * who serves now, by a futex and on a pidfd of its own: so a successor answers although nobody has run in between, not
 * even we.
 *
 *   (nobody) --prepare--> armed --death of who serves--> taken by itself, or by us
 *
 * Two could decide who is next. An eventfd that holds 1 settles it: whoever reads the 1 decides. While we hold the 1 the
 * standby waits for our word.
 */
import { close, eventfd, eventfdRead, eventfdWrite } from '@nyx/native';
import type { FaultMessage, RoleReply, TakeOver } from '@nyx/protocol';
import { NyxError } from '@nyx/protocol/errors';
import { type Keeping, noKeeper } from './keeper.ts';

import { inheritedChild, type KeptStandby, keptChild } from './kept-place.ts';
import type { ProcessPlan } from './plan.ts';
import type { DeviceChild, Spares } from './spares.ts';

export interface Successor {
  child: DeviceChild;
  /** It has taken over by itself, or is about to. */
  claimed: boolean;
  /** What it said so far. */
  replies: RoleReply[];
}

export class Standby {
  #child: DeviceChild | undefined;
  #claim = -1;
  /** The 1 is with us. */
  #held = false;
  #armed = false;
  #replies: RoleReply[] = [];
  #heard: ((reply: RoleReply) => void) | undefined;
  /** Ends the trial of `ready`. */
  #abandon: ((why: string) => void) | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** Took over while it was being closed; killed. */
  #leaving: DeviceChild | undefined;

  /** @param changed there is another process, or none */
  constructor(
    readonly plan: ProcessPlan,
    readonly spares: Spares,
    readonly changed: () => void,
    readonly keeper: Keeping = noKeeper,
  ) {}

  /** Zero: there is none. */
  get pid(): number {
    return this.#child?.child.pid ?? 0;
  }

  /** It can take over at once. */
  get armed(): boolean {
    return this.#armed;
  }

  /** Has one after `delay` ms, unless there is one: what is under way has the CPU first. */
  prepare(delay: number, served: () => DeviceChild | undefined): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const predecessor = served();
      if (this.#child === undefined && predecessor?.death === undefined && predecessor)
        this.#start(predecessor, () => this.prepare(1000, served));
    }, delay);
  }

  /**
   * Has a new one now that waits for our word, and tells which devices' state it will migrate.
   * @throws NyxError UPGRADE_REFUSED: it cannot have the role; then there is none
   */
  ready(predecessor: DeviceChild, seconds: number): Promise<string[]> {
    this.close();
    this.#held = true;
    return new Promise((resolve, reject) => {
      const refuse = (got: string): void => {
        clearTimeout(timer);
        this.#abandon = undefined;
        this.close();
        reject(
          new NyxError('UPGRADE_REFUSED', { expected: `a build that can serve '${this.plan.name}'`, got }),
        );
      };
      const timer = setTimeout(() => refuse(`it was not ready within ${seconds} s`), seconds * 1000);
      this.#abandon = refuse;
      this.#heard = (reply) => {
        if (reply.type === 'failed') refuse(`${reply.code}: ${reply.message}`);
        if (reply.type !== 'armed') return;
        clearTimeout(timer);
        this.#heard = undefined;
        this.#abandon = undefined;
        resolve(reply.migrates);
      };
      this.#start(predecessor, () => refuse('it ended'));
    });
  }

  #start(predecessor: DeviceChild, again: () => void): void {
    const { role, fds, service } = this.plan;
    let child: DeviceChild;
    try {
      child = this.spares.take(service);
    } catch {
      // The host is short of something. Without a standby a death costs a start.
      again();
      return;
    }
    this.#child = child;
    this.#claim = eventfd(this.#held ? 0 : 1);
    this.#replies = [];
    this.#keep();
    this.#listen(child, () => predecessor, again);
    this.keeper.after(() =>
      child.give({ ...role, standby: { predecessor: fds.length, claim: fds.length + 1 } }, [
        ...fds,
        predecessor.child.pidfd,
        this.#claim,
      ]),
    );
    this.changed();
  }

  #listen(child: DeviceChild, predecessor: () => DeviceChild | undefined, again: () => void): void {
    child.listen(
      (reply) => {
        if (reply.type === 'armed') {
          this.#armed = true;
          this.#keep();
        } else {
          // Its predecessor is dead, or said so falsely: whoever has a successor goes, so that two never serve for long.
          if (reply.type === 'serving') predecessor()?.child.kill();
          this.#replies.push(reply);
        }
        this.#heard?.(reply);
        if (reply.type === 'failed') child.child.kill();
      },
      () => {
        if (this.#child !== child) return;
        this.#forget();
        again();
      },
    );
  }

  #keep(): void {
    const child = this.#child;
    if (!child) return;
    const value: KeptStandby = { ...keptChild(child), armed: this.#armed, held: this.#held };
    this.keeper.put(`standby/${this.plan.name}`, value, [...child.child.descriptors, this.#claim]);
  }

  /** One that another supervisor has prepared; it may have taken over meanwhile. */
  inherit(kept: KeptStandby, fds: readonly number[], served: () => DeviceChild | undefined): void {
    const child = this.spares.inherit(kept.service, inheritedChild({ value: kept, fds }));
    this.#child = child;
    this.#claim = fds[2]!;
    this.#held = kept.held;
    this.#armed = kept.armed;
    this.#listen(child, served, () => this.prepare(1000, served));
  }

  /** Whether it may take over without us. */
  allow(yes: boolean): void {
    if (yes !== this.#held) return;
    if (this.#child === undefined) {
      this.#held = !yes;
      return;
    }
    if (yes) {
      eventfdWrite(this.#claim);
      this.#held = false;
    } else this.#held = eventfdRead(this.#claim) === 1;
    this.#keep();
  }

  tell(message: FaultMessage): void {
    this.#child?.child.send(Buffer.from(JSON.stringify(message)));
  }

  /**
   * Who served is dead: the one that comes next, if there is one. It is no longer ours.
   * @param wanted it shall follow: then it decides by itself, sooner than our word could reach it
   */
  take(wanted: boolean): Successor | undefined {
    clearTimeout(this.#timer);
    // One that is being tried is nobody to rely on.
    this.#abandon?.('who served has died meanwhile');
    const child = this.#child;
    if (child === undefined || child.death !== undefined) {
      this.#forget();
      return undefined;
    }
    const claimed = !this.#held && (wanted || eventfdRead(this.#claim) !== 1);
    const replies = this.#replies;
    this.#forget();
    return { child, claimed, replies };
  }

  /** Ends it, and none follows until `prepare`. */
  close(): void {
    clearTimeout(this.#timer);
    const serves = this.#claim >= 0 && !this.#held && eventfdRead(this.#claim) !== 1;
    const child = this.#child;
    this.#forget();
    if (serves) this.#leaving = child;
    child?.child.kill();
  }

  /** Calls when nobody of ours changes the place's state any more: at once, but for one that took over before `close`. */
  whenLeft(then: () => void): void {
    const child = this.#leaving;
    if (child === undefined || child.death !== undefined) {
      this.#leaving = undefined;
      then();
    } else
      child.listen(
        () => {},
        () => this.whenLeft(then),
      );
  }

  #forget(): void {
    this.keeper.drop(`standby/${this.plan.name}`);
    if (this.#claim >= 0) close(this.#claim);
    this.#claim = -1;
    this.#child = undefined;
    this.#armed = false;
    this.#replies = [];
    this.#heard = undefined;
  }
}

/** Lets a standby go on that we did not let decide. */
export const takeOver = (child: DeviceChild): void => {
  const order: TakeOver = { type: 'takeOver' };
  child.child.send(Buffer.from(JSON.stringify(order)));
};
