import { BACKING, deathAtEveryStep, TOP, type Variant } from '../testing/world.ts';
import { check } from './check.ts';
import { type CreateOptions, createImage } from './create.ts';
import { Qcow2Disk } from './disk.ts';
import { createSnapshot } from './snapshot-write.ts';

const SIZE = 96 * 1024;

const variant = (
  image: Partial<CreateOptions>,
  o: { backing?: boolean; snapshot?: boolean } = {},
): Variant => ({
  size: SIZE,
  room: 1 << 20,
  below: o.backing ? 7 : 0,
  create(host) {
    host.add(TOP, new Uint8Array());
    if (o.backing) host.add(BACKING, new Uint8Array(SIZE).fill(7));
    const backing = o.backing ? ({ backing: 'lower', backingFormat: 'raw' } as const) : {};
    createImage(host, TOP, { size: SIZE, clusterBits: 12, ...image, ...backing });
  },
  open(host, journal, memory, completed) {
    const files = [{ fd: TOP, qcow2: true }, ...(o.backing ? [{ fd: BACKING, qcow2: false }] : [])];
    return new Qcow2Disk(host, { files, journal, cacheBytes: 32768 }, memory, completed);
  },
  ...(o.snapshot ? { snapshot: (host) => createSnapshot(host, TOP, 'first', 1_700_000_000) } : {}),
  check(host) {
    const { leaks, corruptions, flags, problems } = check(host, TOP);
    if (corruptions + flags > 0)
      throw new Error(`${corruptions} errors, ${flags} flags: ${problems.join('; ')}`);
    return leaks;
  },
});

deathAtEveryStep('qcow2', [
  ['clusters of 4 KiB', variant({})],
  ['clusters of 512 bytes, 1-bit refcounts', variant({ clusterBits: 9, refcountOrder: 0 })],
  ['version 2 on a backing file', variant({ version: 2 }, { backing: true })],
  ['a snapshot shares everything', variant({}, { snapshot: true, backing: true })],
  ['extended L2 on a backing file', variant({ clusterBits: 14, extendedL2: true }, { backing: true })],
  ['extended L2 under a snapshot', variant({ clusterBits: 14, extendedL2: true }, { snapshot: true })],
]);
