#!/usr/bin/env -S npx tsx
// Writes the C++ headers that come from the layout tables; `--check` only compares (npm run check).
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { machineHeader, stateHeader } from '@nyx/protocol';
import { wireHeader } from '@nyx/ring/wire';

const root = fileURLToPath(new URL('..', import.meta.url));
const files = {
  'services/vcpu/src/gen/wire.h': wireHeader,
  'services/vcpu/src/gen/machine.h': machineHeader,
  'services/vcpu/src/gen/state.h': stateHeader,
};
let stale = 0;
for (const [path, make] of Object.entries(files)) {
  const text = make();
  if (process.argv.includes('--check')) {
    let old = '';
    try {
      old = readFileSync(root + path, 'utf8');
    } catch {}
    if (old !== text) {
      console.error(`${path} is stale: run npm run gen`);
      stale++;
    }
  } else {
    writeFileSync(root + path, text);
    console.log(path);
  }
}
process.exitCode = stale ? 1 : 0;
