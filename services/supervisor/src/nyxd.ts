/**
 * nyxd: the supervisor of one machine. `nyxd <run directory>`; the directory was claimed and holds spec.json. Device processes
 * need longest to start, so they come first, before even the supervisor's own code is loaded (supervise.ts).
 */
import { openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { files } from '@nyx/nyx/files';
import { serviceBundle } from './paths.ts';
import { Spares } from './spares.ts';

/** What the machine will surely need. Whether the specification is right is seen later. */
const servicesOf = (dir: string): string[] => {
  try {
    const spec = JSON.parse(readFileSync(join(dir, files.spec), 'utf8')) as { disks?: unknown[] };
    return spec.disks?.length ? ['platform', 'storage'] : ['platform'];
  } catch {
    return [];
  }
};

const main = async (dir: string): Promise<void> => {
  const log = openSync(join(dir, files.deviceLog), 'a', 0o600);
  const spares = new Spares({ log, bundle: serviceBundle });
  for (const service of servicesOf(dir)) {
    try {
      spares.start(service);
    } catch {
      // It is tried again when it is needed, and reported then.
    }
  }
  const { supervise } = await import('./supervise.ts');
  await supervise(dir, spares);
};

const dir = process.argv[2];
if (!dir) {
  process.stderr.write('usage: nyxd RUN-DIRECTORY (nyx run starts it)\n');
  process.exit(64);
}
void main(dir);
