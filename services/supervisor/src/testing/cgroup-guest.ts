/**
 * Runs in a guest, in a control group that was delegated to it: what Cgroups makes of it, and what happens to a process there
 * that takes too much. Prints JSON.
 */
import { existsSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Cgroups, type Group } from '../cgroup.ts';
import { Child } from '../child.ts';

const log = openSync('/dev/null', 'w');
const mib = 2 ** 20;

/** A program of Node's in a jail with this group; how it ended. */
const run = (
  group: Group,
  script: string,
): Promise<{ reason: string; layers: string[]; missing: string[] }> =>
  new Promise((resolve) => {
    const child: Child = new Child(process.execPath, ['-e', script], {
      log,
      jail: { read: [], leaves: false, cgroup: group.path },
      onMessage: () => {},
      onDeath: (reason) =>
        resolve({ reason, layers: child.jail?.layers ?? [], missing: child.jail?.missing ?? [] }),
    });
  });

const found = Cgroups.find();
const result: Record<string, unknown> = { refusal: found.refusal, base: found.base };
const group = found.make(96 * mib);
if (group) {
  result.greedy = await run(group, 'const a = []; for (;;) a.push(Buffer.alloc(1 << 20, 1));');
  result.events = readFileSync(join(group.path, 'memory.events'), 'utf8');
  group.limit(512 * mib);
  result.raised = await run(
    group,
    'const a = []; for (let i = 0; i < 110; i++) a.push(Buffer.alloc(1 << 20, 1)); process.exit(8)',
  );
  result.threads = await run(
    group,
    'const { Worker } = require("node:worker_threads"); for (let i = 0; i < 100; i++) new Worker("setInterval(()=>{}, 1000)", { eval: true }).on("error", () => process.exit(9)); setTimeout(() => process.exit(10), 60000);',
  );
  result.pids = readFileSync(join(group.path, 'pids.events'), 'utf8');
  group.remove();
  result.left = existsSync(group.path);
}
console.log(JSON.stringify(result));
process.exit(0);
