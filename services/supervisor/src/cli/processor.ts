/** What a process of this host uses, as the kernel tells it: time of the processor by thread, memory of its own. */
import { readdirSync, readFileSync } from 'node:fs';

export interface Usage {
  /** Nanoseconds of processor time so far, of each thread that lives, by its name and id. */
  threads: Map<string, number>;
  /** Bytes that it shares with nobody. */
  bytes: number;
}

/** undefined: there is no such process any more. */
export const usage = (pid: number): Usage | undefined => {
  if (pid <= 0) return undefined;
  const threads = new Map<string, number>();
  try {
    for (const task of readdirSync(`/proc/${pid}/task`)) {
      try {
        const at = `/proc/${pid}/task/${task}`;
        const name = readFileSync(`${at}/comm`, 'latin1').trim();
        threads.set(`${name} ${task}`, Number(readFileSync(`${at}/schedstat`, 'latin1').split(' ')[0]));
      } catch {
        // A thread that has ended meanwhile.
      }
    }
    const kib = /^RssAnon:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? 0;
    return { threads, bytes: Number(kib) * 1024 };
  } catch {
    return undefined;
  }
};

/** Nanoseconds between two looks at a process, of all threads or of those of a name. A thread that is new counts whole. */
export const spent = (before: Usage | undefined, now: Usage | undefined, name?: string): number => {
  let ns = 0;
  for (const [thread, time] of now?.threads ?? []) {
    if (name !== undefined && thread.slice(0, thread.lastIndexOf(' ')) !== name) continue;
    ns += Math.max(0, time - (before?.threads.get(thread) ?? 0));
  }
  return ns;
};
