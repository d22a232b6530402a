// Prints the C++ files of folders, for binding.gyp. src/no_soft.cc stands in for a software CPU that is not there.
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

export const ccFiles = (here, ...folders) =>
  folders.flatMap((folder) => {
    if (!existsSync(join(here, folder))) return [];
    const names = readdirSync(join(here, folder)).filter((name) => name.endsWith('.cc'));
    return names.sort().map((name) => `${folder}/${name}`);
  });

export const hasSoft = (here) => existsSync(join(here, 'src/soft/soft.cc'));

if (process.argv[1]?.endsWith('list-sources.mjs')) {
  const here = process.cwd();
  const folders = process.argv.slice(2);
  let files = ccFiles(here, ...folders);
  files = files.filter((file) => file !== 'src/main.cc' && (file !== 'src/no_soft.cc' || !hasSoft(here)));
  // Half a software CPU does not link.
  if (folders.includes('src/soft') && !hasSoft(here)) files = [];
  console.log(files.join('\n'));
}
