import { imageError } from '@nyx/nyx';
import { NyxError } from '@nyx/protocol/errors';
import { Command } from 'commander';
import { bytes, columns, dim, print, progress } from './text.ts';

export const make = (): Command => {
  const image = new Command('image')
    .description(
      'Guest images that Nyx builds from packages of the distribution; kept in the cache directory.',
    )
    .addHelpText('after', '\nExamples:\n  nyx image ls\n  nyx image build debian\n  nyx image rm debian');
  const store = async () => new (await import('@nyx/image')).ImageStore();
  image
    .command('ls')
    .description('lists the images')
    .action(async () => {
      const all = (await store()).ls();
      if (all.length === 0)
        return print('No images. nyx image build debian makes one; nyx run debian does so by itself.');
      print(
        columns([
          ['NAME', 'KERNEL', 'SIZE', 'BUILT'].map(dim),
          ...all.map((i) => [i.name, i.release, bytes(i.bytes), i.builtAt.slice(0, 16).replace('T', ' ')]),
        ]),
      );
    });
  image
    .command('build')
    .description('builds an image')
    .argument('[name]', 'image', 'debian')
    .option('--refresh', 'ask for newer packages even if the image is there')
    .action(async (name: string, o: { refresh?: boolean }) => {
      const i = await (await store())
        .build(name, (p) => progress(p.message, p.fraction), { refresh: o.refresh === true })
        .catch((e) => Promise.reject(imageError(e)));
      print(`${i.name}: ${i.release}, ${bytes(i.bytes)}`);
    });
  image
    .command('rm')
    .description('removes an image')
    .argument('<name>', 'image')
    .action(async (name: string) => {
      if (!(await (await store()).rm(name)))
        throw new NyxError('IMAGE_UNKNOWN', { expected: 'an image that was built', got: `'${name}'` });
      print(`${name} was removed.`);
    });
  return image;
};
