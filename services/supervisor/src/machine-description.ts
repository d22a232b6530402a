/** What nyx-vcpu is told of a machine. */
import { describeMachine } from '@nyx/protocol/describe';
import type { VmSpec } from '@nyx/protocol/spec';
import type { Payload } from './boot.ts';
import type { planProcesses } from './plan.ts';
import type { Resources } from './resources.ts';

/** @param wallClock UTC seconds at guest time 0 */
export const descriptionOf = (
  spec: VmSpec,
  r: Resources,
  payload: Payload,
  part: ReturnType<typeof planProcesses>['part'],
  wallClock: number,
): ReturnType<typeof describeMachine> => {
  const memories = [{ gpa: 0, size: r.lowBytes, fd: r.ram.fd, fdOffset: 0 }];
  if (r.ramBytes > r.lowBytes)
    memories.push({ gpa: 2 ** 32, size: r.ramBytes - r.lowBytes, fd: r.ram.fd, fdOffset: r.lowBytes });
  const rom = payload.rom && {
    gpa: payload.rom.address,
    size: payload.rom.bytes.length,
    fd: r.blob('firmware', payload.rom.bytes).fd,
    fdOffset: 0,
    readonly: true,
  };
  return describeMachine({
    accel: spec.deterministic ? 'soft' : spec.accel,
    deterministic: spec.deterministic,
    softMode: spec.softCpu,
    wallClock,
    cpus: spec.cpus,
    boot: payload.plan,
    startPaused: true,
    vmPage: r.vmPage.fd,
    pageMap: r.pageMap.fd,
    memories: rom ? [...memories, rom] : memories,
    ...part,
  });
};
