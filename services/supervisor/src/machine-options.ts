/** What a machine is made from, and whom it tells. */
import type { Fingerprint, VmEvent } from '@nyx/protocol/control';
import type { NyxError } from '@nyx/protocol/errors';
import type { VmSpec } from '@nyx/protocol/spec';
import type { Heritage } from './adoption.ts';
import type { Keeping } from './keeper.ts';
import type { Spares } from './spares.ts';
import type { Backends } from './vhost-user.ts';

export interface MachineOptions {
  name: string;
  dir: string;
  spec: VmSpec;
  /** Those that wait already get the first roles. */
  spares: Spares;
  /** Devices whose work other programs do. */
  backends?: Backends;
  /** Keeps what another nyxd needs to go on with the machine. */
  keeper?: Keeping;
  /** The machine runs already: what the nyxd before us has left. Then `adopt` comes instead of `start`. */
  heritage?: Heritage;
  vcpuProgram: string;
  vcpuLog: number;
  consoleLog: string;
  log(level: 'debug' | 'info' | 'warn' | 'error', message: string, detail?: object): void;
  onEvent(e: VmEvent): void;
  /** The set of processes changed. */
  onPids(pids: { role: string; pid: number }[]): void;
  /** Once, at the end. */
  onEnd(
    state: 'stopped' | 'failed',
    error: NyxError | undefined,
    fault: string | undefined,
    fingerprint: Fingerprint | undefined,
  ): void;
}
