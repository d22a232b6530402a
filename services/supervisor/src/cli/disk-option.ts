/** `--disk FILE,key=value,...`: what a machine file says of a disk, on one line. Names follow QEMU. */
import { diskFormats, readErrorPolicies, Throttle, writeErrorPolicies } from '@nyx/protocol/disk-options';
import { NyxError } from '@nyx/protocol/errors';
import { nearest, type VmSpecInput } from '@nyx/protocol/spec';

type Disk = Exclude<NonNullable<VmSpecInput['disks']>[number], string>;

const wrong = (expected: string, got: string): NyxError => new NyxError('USAGE', { expected, got });
const oneOf =
  (values: readonly string[]) =>
  (key: string, value: string): string => {
    if (!values.includes(value)) throw wrong(`${key}=${values.join(` or ${key}=`)}`, value);
    return value;
  };
const text = (_key: string, value: string): string => value;
const onOff = (key: string, value: string): boolean => oneOf(['on', 'off'])(key, value) === 'on';
const number = (key: string, value: string): number => {
  const n = Number(value);
  if (value.trim() === '' || !Number.isFinite(n)) throw wrong(`a number for ${key}`, value);
  return n;
};

/** Keys, and what they are in a machine file. */
const keys: Record<string, [name: keyof Disk, parse: (key: string, value: string) => unknown]> = {
  format: ['format', oneOf(diskFormats)],
  readonly: ['readonly', onOff],
  bus: ['bus', oneOf(['virtio', 'ahci'])],
  serial: ['serial', text],
  lifetime: ['lifetime', onOff],
  size: ['size', text],
  werror: ['werror', oneOf(writeErrorPolicies)],
  rerror: ['rerror', oneOf(readErrorPolicies)],
  'force-share': ['forceShare', onOff],
  'cache.direct': ['direct', onOff],
  'reconnect-delay': ['reconnectDelay', number],
};
const limits = Object.keys(Throttle.shape);
const known = [...Object.keys(keys), ...limits.map((l) => `throttle.${l}`)];

/** Disks that are no file of this host. */
export const isUri = (path: string): boolean => /^[a-z][a-z0-9+-]*:\/\//.test(path);

/**
 * @param here makes a path absolute. `FILE:ro` is read-only.
 * @throws NyxError USAGE
 */
export function parseDisk(argument: string, here: (path: string) => string): Disk {
  const readonly = argument.endsWith(':ro');
  // A comma belongs to the name unless something like an option follows.
  const [file = '', ...options] = (readonly ? argument.slice(0, -3) : argument).split(/,(?=[a-z][a-z.-]*=)/);
  const disk: Record<string, unknown> = { path: isUri(file) ? file : here(file), readonly };
  const throttle: Record<string, number> = {};
  for (const option of options) {
    const at = option.indexOf('=');
    const [key, value] = [option.slice(0, at), option.slice(at + 1)];
    const limit = /^thrott(?:le|ling)\.(.*)$/.exec(key)?.[1];
    if (limit !== undefined && limits.includes(limit)) throttle[limit] = number(key, value);
    else if (keys[key]) disk[keys[key][0]] = keys[key][1](key, value);
    else
      throw new NyxError('USAGE', {
        expected: `one of ${Object.keys(keys).join(', ')}, throttle.*`,
        got: `'${key}' in --disk ${argument}`,
        hint: `Did you mean '${nearest(key, known)}'?`,
      });
  }
  if (Object.keys(throttle).length > 0) disk.throttle = throttle;
  return disk as Disk;
}
