/**
 * The last part of a device process's jail, from inside: nyx-jail gave it namespaces, limits and Landlock before it was
 * loaded; now, with all code in memory, it gives up the file system, and every system call that it does not need. After
 * its devices are attached, those that made timers and queues go too.
 */
import { attachSyscalls, deviceSyscalls, leaveFiles, onDenied, seccomp } from '@nyx/native';

/** System calls of a service beyond those of every device process (`deviceSyscalls`). */
export interface SyscallPolicy {
  /** Between its role and the first exit only. */
  readonly attach?: readonly string[];
  /** Always. */
  readonly serve?: readonly string[];
}

/** nyx-jail's helper waits on that descriptor; without the variable there is none. */
const helperFd = Number(process.env.NYX_JAIL ?? -1);

const reasonOf = (e: unknown): string => (e as Error)?.message ?? String(e);

export class LockDown {
  /** Layers that do not hold, and why. */
  readonly missing: string[] = [];
  readonly #serve: readonly string[];

  constructor(policy: SyscallPolicy, log: (level: string, device: string, message: string) => void) {
    this.#serve = [...deviceSyscalls, ...(policy.serve ?? [])];
    if (helperFd >= 0) this.#try('empty root', () => leaveFiles(helperFd));
    onDenied((calls) => {
      for (let i = 0; i < calls.length; i += 2)
        log('warn', 'jail', `system call denied: ${calls[i]}, ${calls[i + 1]} times`);
    }).unref();
    const attach = [...attachSyscalls, ...(policy.attach ?? []), 'seccomp', 'prctl'];
    this.#try('seccomp', () => this.#install([...attach, ...this.#serve]));
  }

  /** All is attached: the calls that did that are not needed again. A filter can only be added, never loosened. */
  serving(): void {
    this.#try('seccomp', () => this.#install(this.#serve));
  }

  #install(allow: readonly string[]): void {
    seccomp({ allow, otherwise: 'log' });
  }

  #try(layer: string, step: () => void): void {
    try {
      step();
    } catch (e) {
      this.missing.push(`${layer}: ${reasonOf(e)}`);
    }
  }
}
