/** Files out of a Debian package: dpkg-deb unpacks the outer layers, tar-stream the inner one. */
import { extract } from 'tar-stream';
import { ImageError } from './errors.ts';
import { tool } from './tool.ts';

/**
 * Reads those regular files of a package that `wanted` chooses.
 * @returns content by path, without a leading './'
 * @throws ImageError IMAGE_TOOL_FAILED for a damaged package
 */
export async function readDeb(path: string, wanted: (path: string) => boolean): Promise<Map<string, Buffer>> {
  const files = new Map<string, Buffer>();
  await tool('dpkg-deb', ['--fsys-tarfile', path], {
    install: 'Install the package dpkg.',
    onOutput: async (stdout) => {
      const tar = extract();
      stdout.on('error', (error) => tar.destroy(error));
      stdout.pipe(tar);
      for await (const entry of tar) {
        const name = entry.header.name.replace(/^\.?\/+/, '');
        if (entry.header.type === 'file' && wanted(name)) {
          const chunks: Buffer[] = [];
          for await (const chunk of entry) chunks.push(chunk as Buffer);
          files.set(name, Buffer.concat(chunks));
        } else entry.resume();
      }
    },
  });
  return files;
}

/** A kernel module as it is loaded: unpacked if the distribution packs it. */
export async function unpackModule(path: string, data: Buffer): Promise<Buffer> {
  if (path.endsWith('.ko')) return data;
  if (path.endsWith('.xz'))
    return tool('xz', ['-dc'], { input: data, install: 'Install the package xz-utils.' });
  if (path.endsWith('.zst'))
    return tool('zstd', ['-dcq'], { input: data, install: 'Install the package zstd.' });
  throw new ImageError(
    'IMAGE_BAD_PACKAGE',
    'kernel modules as .ko, .ko.xz or .ko.zst',
    path,
    'Report the distribution and the package version.',
  );
}
