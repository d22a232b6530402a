/**
 * How a machine goes from one nyxd to the next: what is kept of it as a whole, and how that is read. Its parts keep
 * themselves: memory and events (resources.ts), places (kept-place.ts), disks and CD drives.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { type VmEvent, type VmState, vmStates } from '@nyx/protocol/control';
import { NyxError, type WireError } from '@nyx/protocol/errors';
import type { Rule } from '@nyx/protocol/policy';
import { parseSpec, type VmSpec } from '@nyx/protocol/spec';
import { type Estate, isCount, isObject } from './estate.ts';
import type { JailReport } from './jail.ts';
import type { Keeping } from './keeper.ts';
import { layouts } from './layouts.ts';
import type { OpenedFiles } from './preflight.ts';
import type { VcpuEvent } from './vcpu.ts';
import type { DeviceLine } from './wiring.ts';

/** `spec`: what the machine is. */
export interface KeptSpec {
  /** Of the build that has started the machine (layouts.ts). */
  layouts: string;
  spec: VmSpec;
  lines: DeviceLine[];
  /** UTC seconds at guest time 0. */
  wallClock: number;
}

/** `machine`: how it stands. */
export interface KeptMachine {
  state: VmState;
  /** Unix milliseconds. */
  since: number;
  resets: number;
  corrupt: number;
  milestones: Record<string, number>;
  /** The guest's agent has said that it listens. */
  agent: boolean;
  /** Somebody wants it to end, by then at the latest; Unix milliseconds. */
  stopBy?: number;
  /** The fault that ends it. */
  endedBy?: string;
  error?: WireError;
}

/** `vcpu`: descriptors as of any child. */
export interface KeptVcpu {
  pid: number;
  jail?: JailReport;
}

/** Everything of a machine that does not keep itself. */
export interface Heritage {
  estate: Estate;
  what: KeptSpec;
  how: KeptMachine;
  vcpu: { value: KeptVcpu; fds: number[] };
  /** What nyx-vcpu has told and was not dealt with: vCPUs stand still because of it. */
  events: VcpuEvent[];
  policy: [string, Rule][] | undefined;
}

/** @throws NyxError ADOPTION_FAILED, SPEC_*; SUPERVISOR_DIED: the machine had not come to run */
export const heritageOf = (estate: Estate): Heritage => {
  const begun = estate.peek('spec')?.value;
  if (isObject(begun) && begun.layouts !== layouts)
    throw new NyxError('ADOPTION_FAILED', {
      expected: `a machine whose memory has this build's layouts (${layouts})`,
      got: `one that another build has started (${String(begun.layouts ?? 'with layouts that it does not tell').slice(0, 40)})`,
    });
  const what = estate.take<KeptSpec>(
    'spec',
    (v) => isObject(v) && isObject(v.spec) && Array.isArray(v.lines) && isCount(v.wallClock),
  ).value;
  const how = estate.take<KeptMachine>(
    'machine',
    (v) => isObject(v) && vmStates.includes(v.state as VmState) && isCount(v.resets) && isCount(v.corrupt),
  ).value;
  if (how.state === 'created' || how.state === 'starting')
    throw new NyxError('SUPERVISOR_DIED', {
      expected: 'a guest that runs',
      got: `a machine that was ${how.state}`,
    });
  const vcpu = estate.take<KeptVcpu>('vcpu', (v, fds) => isObject(v) && isCount(v.pid) && fds.length === 2);
  const events = estate.find<VcpuEvent[]>(
    'events',
    (v) => Array.isArray(v) && v.every((e) => isObject(e) && isCount(e.op)),
  );
  const policy = estate.find<[string, Rule][]>('policy', (v) => Array.isArray(v));
  return {
    estate,
    what: { ...what, spec: parseSpec(what.spec) },
    how,
    vcpu,
    events: events?.value ?? [],
    policy: policy?.value,
  };
};

const bootFiles = ['kernel', 'initrd', 'bios'] as const;

/** The files that are read again at each reset; disks and media are kept by who changes them. */
export const keepFiles = (keeper: Keeping, files: OpenedFiles): void => {
  for (const name of bootFiles)
    if (files[name] !== undefined) keeper.put(`file/${name}`, null, [files[name]]);
  for (const [i, fd] of files.standbys) keeper.put(`other/${i}`, null, [fd]);
};
export const inheritFiles = (estate: Estate): OpenedFiles => {
  const files: OpenedFiles = { disks: [], standbys: new Map(), cds: [] };
  for (const name of bootFiles) {
    const fd = estate.fd(`file/${name}`);
    if (fd !== undefined) files[name] = fd;
  }
  for (const key of estate.keys('other/'))
    files.standbys.set(Number(key.slice('other/'.length)), estate.fd(key)!);
  return files;
};

/** So much of the log is read for the events that are in it, bytes. */
const logBytes = 512 * 1024;

/** Events that nyxd has logged, of the newest part of a log, oldest first: the same that `history` has. */
export const loggedEvents = (log: string, most: number): VmEvent[] => {
  let fd: number;
  try {
    fd = openSync(log, 'r');
  } catch {
    return [];
  }
  try {
    const { size } = fstatSync(fd);
    const bytes = Buffer.alloc(Math.min(size, logBytes));
    const text = bytes.toString('utf8', 0, readSync(fd, bytes, 0, bytes.length, size - bytes.length));
    const events: VmEvent[] = [];
    for (const line of text.split('\n')) {
      if (!line.includes('"component":"nyxd"')) continue;
      try {
        const { level, time, vm, component, msg, ...event } = JSON.parse(line) as Record<string, unknown>;
        if (typeof event.type === 'string' && event.type === msg && typeof event.at === 'number')
          events.push(event as unknown as VmEvent);
      } catch {
        // The first line is cut, the last one may be.
      }
    }
    return events.slice(-most);
  } finally {
    closeSync(fd);
  }
};
