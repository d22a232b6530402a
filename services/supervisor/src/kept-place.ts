/** What the keeper holds of a place of a device process, and how it looks to the nyxd that finds it. */
import type { Role } from '@nyx/protocol';
import type { ProcessState } from '@nyx/protocol/control';
import type { WireError } from '@nyx/protocol/errors';
import type { Inherited } from './child.ts';
import { type Estate, isCount, isObject } from './estate.ts';
import type { JailReport } from './jail.ts';
import type { ProcessPlan } from './plan.ts';
import type { DeviceChild } from './spares.ts';

export interface KeptChild {
  pid: number;
  service: string;
  jail?: JailReport;
  /** Its control group. */
  group?: string;
}
/** Descriptors: socket, pidfd, claim. */
export interface KeptStandby extends KeptChild {
  armed: boolean;
  held: boolean;
}
/** `place/NAME`, with the descriptors of the role. */
export interface KeptPlace {
  role: Role;
  service: string;
}
/** `life/NAME`. */
export interface KeptLife {
  state: ProcessState;
  restarts: number;
  violations: number;
  /** Why the present recovery runs, or somebody changes what the place is. */
  reason?: string;
  error?: WireError;
  /** Nobody shall fill it until somebody says so. */
  left?: boolean;
  /** A device whose state could not be loaded. */
  corrupt?: string;
  /** The build that served before the one that is about to take over. */
  upgradedFrom?: string;
}

export const keptChild = (c: DeviceChild): KeptChild => ({
  pid: c.child.pid,
  service: c.service,
  ...(c.child.jail ? { jail: c.child.jail } : {}),
  ...(c.group === undefined ? {} : { group: c.group }),
});

export const inheritedChild = ({ value, fds }: { value: KeptChild; fds: readonly number[] }): Inherited => ({
  pid: value.pid,
  jail: value.jail,
  group: value.group,
  socket: fds[0]!,
  pidfd: fds[1]!,
});

const isChild = (v: unknown): v is Record<string, unknown> =>
  isObject(v) &&
  isCount(v.pid) &&
  v.pid > 1 &&
  typeof v.service === 'string' &&
  (v.jail === undefined || isObject(v.jail));

/** What is left of a place. */
export interface Inheritance {
  life: KeptLife;
  child?: { value: KeptChild; fds: number[] };
  standby?: { value: KeptStandby; fds: number[] };
}

/**
 * Takes what was left of a place; its plan becomes what it was. Undefined: it had not been filled yet.
 * @throws NyxError ADOPTION_FAILED
 */
export const inheritance = (plan: ProcessPlan, estate: Estate): Inheritance | undefined => {
  const { name } = plan;
  const indices = (role: unknown, count: number): boolean => {
    const r = role as Role;
    const all = [
      r.ring,
      r.kick,
      r.irqPage,
      r.irqEvent,
      r.vmPage,
      r.ram ?? 0,
      r.pageMap ?? 0,
      ...r.devices.flatMap((d) => [d.state, ...Object.values(d.fds)]),
    ];
    return (
      r.type === 'role' &&
      r.process === name &&
      r.devices.length === plan.devices.length &&
      all.every((i) => isCount(i) && i < count)
    );
  };
  const place = estate.find<KeptPlace>(
    `place/${name}`,
    (v, fds) =>
      isObject(v) && typeof v.service === 'string' && isObject(v.role) && indices(v.role, fds.length),
  );
  if (!place) return undefined;
  plan.role = place.value.role;
  plan.fds = place.fds;
  plan.service = place.value.service;
  const { value: life } = estate.take<KeptLife>(
    `life/${name}`,
    (v) => isObject(v) && isCount(v.restarts) && typeof v.state === 'string',
  );
  const child = estate.find<KeptChild>(`child/${name}`, (v, fds) => isChild(v) && fds.length === 2);
  const standby = estate.find<KeptStandby>(`standby/${name}`, (v, fds) => isChild(v) && fds.length === 3);
  return { life, ...(child ? { child } : {}), ...(standby ? { standby } : {}) };
};
