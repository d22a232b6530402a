#!/usr/bin/env node
// `npm run check [name...] [--fix]`: everything that must hold of the tree besides the tests.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { main, root, run, step, UserError } from './lib/steps.mjs';

const bin = (name) => join(root, 'node_modules/.bin', name);
const skip = new Set(['node_modules', 'dist', 'build', '.git', '.turbo', 'gen']);

/** Files of the tree below `dir` whose name ends in one of `ends`. */
function* files(dir, ends) {
  for (const entry of readdirSync(join(root, dir), { withFileTypes: true })) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) {
      if (!skip.has(entry.name)) yield* files(path, ends);
    } else if (ends.some((e) => entry.name.endsWith(e))) yield path;
  }
}

// Lower may not import higher; equals may not import each other, but for libs in one row where listed.
const layers = {
  layout: 0,
  native: 1,
  ring: 2,
  log: 2,
  protocol: 3,
  boot: 4,
  device: 4,
  'vhost-user': 4.1,
  image: 4.2,
  nyx: 4.5,
  testkit: 4.7,
};

function layerOf(path) {
  const [top, name] = path.split('/');
  return top === 'services' ? 5 : top === 'libs' ? layers[name] : 7;
}

function checkLayers() {
  const bad = [];
  for (const path of files('.', ['.ts', '.mjs'])) {
    const from = relative('.', path);
    const [top, name] = from.split('/');
    if (top !== 'libs' && top !== 'services') continue;
    for (const [, spec] of readFileSync(join(root, from), 'utf8').matchAll(
      /(?:from|import)\s*\(?\s*'([^']+)'/g,
    )) {
      if (spec.startsWith('@nyx/')) {
        const target = spec.split('/')[1];
        if (target.startsWith('service-')) bad.push(`${from}: imports the service ${spec}`);
        else if (target !== name && layers[target] === undefined)
          bad.push(`${from}: unknown package ${spec}`);
        else if (target !== name && layers[target] >= layerOf(from))
          bad.push(`${from}: ${spec} is not below it`);
      } else if (spec.startsWith('.')) {
        const target = relative(root, resolve(join(root, dirname(from)), spec));
        if (!target.startsWith(`${top}/${name}/`)) bad.push(`${from}: reaches into ${target}`);
      }
    }
  }
  if (bad.length) throw new UserError(bad.join('\n'));
  return '';
}

/** Reports files that are longer than a reader likes; fails for those that nobody reads. */
function checkLengths() {
  const long = [];
  for (const path of files('.', ['.ts', '.cc', '.h', '.mjs'])) {
    const text = readFileSync(join(root, path), 'utf8');
    const lines = text.split('\n').length;
    // A longer file says why in its first comment: "Length: ...".
    if (lines > 450 && !/Length:|Longer than other files/.test(text.slice(0, 2000))) long.push([lines, path]);
  }
  long.sort((a, b) => b[0] - a[0]);
  const report = long.map(([lines, path]) => `\n       ${lines} lines: ${path}`).join('');
  if (long.length && long[0][0] > 900)
    throw new UserError(`split by concept, or say why at the head (Length: ...):${report}`);
  return report ? `to be split or explained:${report}\n       ` : '';
}

function checkDocs() {
  const bad = [];
  for (const path of files('.', ['.md'])) {
    const text = readFileSync(join(root, path), 'utf8');
    const named = [...text.matchAll(/`((?:services|libs|docs|test|tools|bin|examples)\/[\w./-]+)`/g)].map(
      (m) => m[1],
    );
    const linked = [...text.matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)/g)].map((m) =>
      relative(root, resolve(join(root, dirname(path)), m[1])),
    );
    for (const target of [...named, ...linked])
      if (!existsSync(join(root, target))) bad.push(`${path}: ${target} does not exist`);
  }
  if (bad.length) throw new UserError(bad.join('\n'));
  return '';
}

function checkWords() {
  // Paths of a developer's machine have no place in the tree.
  const bad = [];
  for (const path of files('.', ['.ts', '.cc', '.h', '.mjs', '.md', '.json', '.gyp'])) {
    if (path === 'tools/check.mjs') continue;
    const text = readFileSync(join(root, path), 'utf8');
    if (/\/(?:home|work)\/\w+\/|(?:it|test|describe)\.(?:skip|only|todo)\(/.test(text))
      bad.push(`${path}: a path of one machine, or a skipped or exclusive test`);
  }
  if (bad.length) throw new UserError(bad.join('\n'));
  return '';
}

/** Folders of devices: those with a register table, and what all PCI and virtio devices are made of. */
function* deviceFiles() {
  const shared = ['libs/device/src/pci', 'libs/device/src/virtio', 'libs/device/template'];
  const folders = new Set([...files('services', ['regs.ts'])].map((path) => dirname(path)));
  // What drives a device in tests is no device.
  for (const folder of [...shared, ...folders])
    for (const path of files(folder, ['.ts']))
      if (!/\.(test|bench)\.ts$|\/(bench|driver|testing\/.*)\.ts$/.test(path)) yield path;
}

async function checkState() {
  const { undeclaredState } = await import('./lib/state.mjs');
  const paths = [...deviceFiles()];
  const bad = paths.flatMap((path) => undeclaredState(path, readFileSync(join(root, path), 'utf8')));
  if (bad.length)
    throw new UserError(
      `${bad.join('\n')}\nState belongs into the state block; what is right to lose says so: /** transient: why */`,
    );
  return `${paths.length} files of devices`;
}

const checks = {
  format: (fix) =>
    run(bin('biome'), ['check', '--error-on-warnings', ...(fix ? ['--write'] : []), '.']).then(() => ''),
  types: () => run(bin('tsc'), ['-p', '.']).then(() => ''),
  generated: (fix) =>
    run(bin('tsx'), [join(root, 'tools/gen.mjs'), ...(fix ? [] : ['--check'])]).then(() => ''),
  layers: checkLayers,
  lengths: checkLengths,
  docs: checkDocs,
  words: checkWords,
  state: checkState,
};

await main(async () => {
  const args = process.argv.slice(2);
  if (args.includes('--help')) {
    console.log(`npm run check [${Object.keys(checks).join('|')}...] [--fix]`);
    return;
  }
  const fix = args.includes('--fix');
  const wanted = args.filter((a) => !a.startsWith('--'));
  let failed = 0;
  for (const [name, work] of Object.entries(checks)) {
    if (wanted.length && !wanted.includes(name)) continue;
    try {
      await step(name, async () => work(fix));
    } catch (error) {
      process.stderr.write(`${error.message}\n`);
      failed++;
    }
  }
  if (failed)
    throw new UserError(`${failed} of ${wanted.length || Object.keys(checks).length} checks failed`);
});
