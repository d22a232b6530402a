/** Wear of the medium below a disk, where its host tells it without privileges: eMMC (JESD84-B50), in sysfs. */
import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';

/** pre_eol_info, device_lifetime_est_typ_a, _b of VIRTIO 1.2 section 5.2.6; 0: unknown. */
export type Wear = [preEol: number, typeA: number, typeB: number];

/**
 * Of the block device that `path` is, or that holds the file. Unknown where it is another kind of medium, several, or none.
 * @param sys where sysfs is
 */
export function wearOf(path: string, sys = '/sys'): Wear {
  try {
    const s = statSync(path);
    const device = s.isBlockDevice() ? s.rdev : s.dev;
    const major = ((device >> 8) & 0xfff) | (Math.floor(device / 2 ** 32) & ~0xfff);
    const minor = (device & 0xff) | ((device >>> 12) & 0xfff00);
    let node = realpathSync(join(sys, 'dev/block', `${major}:${minor}`));
    if (existsSync(join(node, 'partition'))) node = join(node, '..');
    const numbers = (name: string): number[] =>
      readFileSync(join(node, 'device', name), 'latin1')
        .trim()
        .split(/\s+/)
        .map(Number);
    const [preEol = 0] = numbers('pre_eol_info');
    const [a = 0, b = 0] = numbers('life_time');
    const known = (n: number, most: number): number => (Number.isInteger(n) && n >= 0 && n <= most ? n : 0);
    return [known(preEol, 3), known(a, 11), known(b, 11)];
  } catch {
    return [0, 0, 0];
  }
}
