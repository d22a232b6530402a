/** From the name of an image to files: kernel, initrd, command line and, unless there is one, an empty data disk. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { ImageError } from '@nyx/image';
import { NyxError } from '@nyx/protocol/errors';
import type { VmSpec } from '@nyx/protocol/spec';

const seabiosPaths = ['/usr/share/seabios/bios-256k.bin', '/usr/share/qemu/bios-256k.bin'];

/** An error of libs/image (known by its name: the library is loaded only when needed) with a code of ours. */
export const imageError = (e: unknown): unknown => {
  if (!(e instanceof Error) || e.name !== 'ImageError') return e;
  const { code, expected, got, advice } = e as ImageError;
  const ours = code === 'IMAGE_UNKNOWN' || code === 'IMAGE_BAD_NAME' ? 'IMAGE_UNKNOWN' : 'HOST_ERROR';
  return new NyxError(ours, { expected, got, hint: advice }, { cause: e });
};

/** @param dir the machine's run directory: an image's data disk lives and dies with it */
export const resolveImage = async (
  spec: VmSpec,
  dir: string,
  progress: (message: string, fraction?: number) => void,
): Promise<VmSpec> => {
  if (spec.bios === 'seabios') {
    const bios = seabiosPaths.find((p) => existsSync(p));
    if (!bios)
      throw new NyxError('FILE_MISSING', {
        expected: `SeaBIOS at ${seabiosPaths.join(' or ')}`,
        got: 'neither',
        hint: 'Install the package seabios, or give the path of an image with --bios.',
      });
    return { ...spec, bios };
  }
  if (spec.image === undefined) return spec;
  // Loaded only when asked for: it brings an archive library.
  const { createDataDisk, dataDiskBytes, ImageStore } = await import('@nyx/image');
  try {
    const image = await new ImageStore().build(spec.image, (p) => progress(p.message, p.fraction));
    let disks = spec.disks;
    if (disks.length === 0) {
      const path = join(dir, 'data.img');
      await createDataDisk(path, dataDiskBytes, spec.deterministic);
      disks = [{ path, readonly: false, bus: 'virtio' }];
    }
    const { image: _, ...rest } = spec;
    return {
      ...rest,
      kernel: image.vmlinux,
      initrd: image.initrd,
      append: [image.cmdline, spec.append].filter(Boolean).join(' '),
      agent: true,
      disks,
    };
  } catch (e) {
    throw imageError(e);
  }
};
