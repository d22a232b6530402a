import type { FakeHost } from '../testing/fakehost.ts';
import { Rig } from '../testing/rig.ts';
import { BACKING, deathAtEveryStep, TOP, type Variant } from '../testing/world.ts';
import { checkVhdx } from './check.ts';
import { createVhdx, type VhdxCreateOptions } from './create.ts';
import { VhdxDisk } from './disk.ts';
import { MiB } from './format.ts';
import { readerOf, readFileHeader } from './header.ts';

const SIZE = MiB + 65536;

/** A parent that is full of sevens. */
function parent(host: FakeHost): string {
  host.add(BACKING, new Uint8Array());
  createVhdx(host, BACKING, { size: SIZE, blockBytes: MiB });
  const rig = new Rig(512 << 10);
  rig.open((m, c) => new VhdxDisk(host, { files: [{ fd: BACKING }] }, m, c));
  rig.bytes.fill(7);
  for (let at = 0; at < SIZE; at += 65536) rig.run(rig.request(1, at, 65536, 0));
  rig.disk.close();
  return readFileHeader(readerOf(host, BACKING)).dataWriteGuid;
}

const variant = (o: Partial<VhdxCreateOptions>, hasParent = false): Variant => ({
  size: SIZE,
  room: 10 * MiB,
  rounds: 24,
  below: hasParent ? 7 : 0,
  create(host) {
    host.add(TOP, new Uint8Array());
    createVhdx(host, TOP, {
      size: SIZE,
      blockBytes: MiB,
      ...o,
      ...(hasParent ? { parent: { path: 'lower', guid: parent(host) } } : {}),
    });
  },
  open: (host, journal, memory, completed) =>
    new VhdxDisk(
      host,
      { files: [{ fd: TOP }, ...(hasParent ? [{ fd: BACKING }] : [])], journal, cacheBytes: 32768 },
      memory,
      completed,
    ),
  check(host) {
    const { corruptions, problems, leaks } = checkVhdx(host, TOP);
    if (corruptions > 0) throw new Error(`${corruptions} errors: ${problems.join('; ')}`);
    // A place that a request took, and nobody finished it, stays empty when another one was taken behind it.
    return Math.max(0, leaks - 3);
  },
});

deathAtEveryStep(
  'vhdx',
  [
    ['dynamic', variant({})],
    ['fixed', variant({ subformat: 'fixed' })],
    ['differencing', variant({}, true)],
  ],
  5,
);
