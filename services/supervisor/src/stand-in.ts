/**
 * Answers for the devices of a place that is isolated: a process of the same program whose role says so. The guest learns of it
 * as the devices' specification says, and nothing is done.
 */
import type { Role, RoleReply } from '@nyx/protocol';
import type { Recovery } from '@nyx/protocol/spec';
import type { ProcessPlan } from './plan.ts';
import { RestartPolicy } from './recovery.ts';
import type { DeviceChild, Spares } from './spares.ts';

/** How often it may die. */
const patience = { budget: 3, window: 60, backoff: 0, maxBackoff: 0 };

/** All devices of a process can tell their driver that they were taken out: VIRTIO 1.2, 2.1.2. */
export const canAnswer = (plan: ProcessPlan): boolean =>
  plan.devices.every((d) => d.kind.startsWith('virtio-'));

export class StandIn {
  readonly #deaths = new RestartPolicy(patience);
  #timer: NodeJS.Timeout | undefined;

  constructor(
    readonly plan: ProcessPlan,
    readonly spares: Spares,
    readonly rules: Pick<Recovery, 'startTimeout'>,
  ) {}

  /**
   * Starts one, unless too many have died.
   * @param give hands a role to it, and hears what it says
   * @param answers it does its work from now on
   */
  start(
    give: (child: DeviceChild, role: Role, onReply: (r: RoleReply) => void) => void,
    answers: (child: DeviceChild) => void,
  ): boolean {
    if (this.#deaths.died(performance.now()) === undefined) return false;
    const child = this.spares.take(this.plan.service);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => child.child.kill(), this.rules.startTimeout * 1000);
    const { role } = this.plan;
    const isolated = { ...role, devices: role.devices.map((d) => ({ ...d, isolated: true })) };
    give(child, isolated, (reply) => {
      if (reply.type !== 'serving' && reply.type !== 'failed') return;
      clearTimeout(this.#timer);
      if (reply.type === 'serving') answers(child);
      else child.child.kill();
    });
    return true;
  }
}
