/** A TPM's device process. */

import type { Worker } from 'node:worker_threads';
import { type AnyDeviceKind, type DeviceContext, serveDevices } from '@nyx/device';
import { tpmCrb } from './crb/device.ts';
import type { Engine, TpmConfig } from './engine.ts';
import { SwtpmEngine } from './swtpm.ts';
import { syscalls } from './syscalls.ts';
import { startThread, ThreadEngine } from './thread.ts';
import { tpmTis } from './tis/device.ts';

export interface Config extends TpmConfig {
  /** Who executes commands; a spare that rehearses has nobody. */
  backend?: 'own' | 'swtpm';
}

const nobody: Engine = { submit() {}, cancel() {} };

const engineOf =
  (worker: Worker) =>
  (ctx: DeviceContext, config: Config): Engine =>
    config.backend === 'own'
      ? new ThreadEngine(worker, ctx)
      : config.backend === 'swtpm'
        ? new SwtpmEngine(ctx)
        : nobody;

export const kindsOf = (worker: Worker): AnyDeviceKind[] => [
  tpmTis<Config>(engineOf(worker)),
  tpmCrb<Config>(engineOf(worker)),
];

/** @param file this program, for its second thread */
export async function serve(file: string): Promise<void> {
  // That thread writes the state's file.
  serveDevices(kindsOf(await startThread(file)), syscalls, false);
}
