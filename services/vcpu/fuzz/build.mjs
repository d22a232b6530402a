// Builds libFuzzer targets with clang: what of src they need, by file, as objects under build/fuzz that are made anew when a header
// or they themselves changed.
//
// The instructions' handlers come from the product's own archive (binding.gyp). They must end in jumps, since translated code has its
// own stack and a loop of the guest would exhaust the host's; g++'s do (oracle.test.ts), and some of clang's do not: it keeps a frame
// of which an address was given away. They are most of what there is to compile, too.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build as buildProduct } from '../build.mjs';
import { ccFiles } from '../list-sources.mjs';

const here = dirname(dirname(fileURLToPath(import.meta.url)));
export const output = join(here, 'build/fuzz');
export const targets = ['ring_consumer', 'decoder', 'translator'];

// What runs devices and vCPU threads; no target needs it.
const skipped = /^src\/(main|machine|machine_state|build|no_soft|control)\.cc$/;
const handlers = /^src\/soft\/(int_|simd|mmx|x87|fxsave|sys_)/;
const archive = join(here, 'build/Release/soft.a');
const sources = (target) => [
  `fuzz/${target}.cc`,
  ...ccFiles(here, 'src').filter((name) => !skipped.test(name)),
  ...(target === 'ring_consumer' ? [] : ccFiles(here, 'src/soft').filter((name) => !handlers.test(name))),
  ...(target === 'translator'
    ? ccFiles(here, 'test/differ').filter((name) => !name.endsWith('main.cc'))
    : []),
];

const sanitizers =
  'address,bounds,shift,signed-integer-overflow,integer-divide-by-zero,bool,enum,return,unreachable';
const flags = [
  '-std=c++20',
  '-g1',
  // Below it nothing ends in a jump.
  '-O2',
  '-D_GNU_SOURCE',
  '-msse4.2',
  '-fno-strict-aliasing',
  '-fno-exceptions',
  `-fsanitize=fuzzer-no-link,${sanitizers}`,
  '-fno-sanitize-recover=all',
  ...['src', 'test/differ', '../../libs/native/src/cc', 'src/gen'].map((folder) => `-I${join(here, folder)}`),
];

/** Why targets cannot be built here; undefined when they can. */
export function missing() {
  const r = spawnSync('clang++', ['-fsanitize=fuzzer,address', '-x', 'c++', '-', '-o', '/dev/null'], {
    input: 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }\n',
    encoding: 'utf8',
  });
  if (r.error) return `clang++: ${r.error.message}`;
  return r.status === 0
    ? undefined
    : `clang++ has no libFuzzer (libclang-rt-14-dev): ${r.stderr.trim().split('\n')[0]}`;
}

const clang = (args) =>
  new Promise((resolve, reject) => {
    const child = spawn('clang++', args, { stdio: ['ignore', 'ignore', 'pipe'] });
    let text = '';
    child.stderr.setEncoding('utf8').on('data', (s) => {
      text += s;
    });
    child.on('error', reject);
    child.on('close', (code) =>
      code === 0 ? resolve() : reject(new Error(`clang++ ${args.join(' ')}\n${text}`)),
    );
  });

const time = (path) => (existsSync(path) ? statSync(path).mtimeMs : 0);
const headers = () =>
  ['src', 'src/gen', 'src/kvm', 'src/soft', 'test/differ', '../../libs/native/src/cc']
    .flatMap((folder) => readdirSync(join(here, folder)).map((name) => join(here, folder, name)))
    .filter((path) => /\.(h|inc)$/.test(path));

/** A file with the flags of the objects, written when they change. */
function flagFile() {
  const path = join(output, 'flags');
  const text = flags.join('\n');
  if (!existsSync(path) || readFileSync(path, 'utf8') !== text) writeFileSync(path, text);
  return path;
}

/** Builds `wanted` targets; `say` is told of each file that is compiled. The programs' paths. */
export async function build(wanted, say = () => {}) {
  // Makes the archive, too.
  say('soft-differ');
  buildProduct({ target: 'soft-differ' });
  mkdirSync(output, { recursive: true });
  const newest = Math.max(...[...headers(), flagFile()].map(time));
  const object = (source) => join(output, `${source.replaceAll('/', '-')}.o`);
  const all = [...new Set(wanted.flatMap(sources))];
  const stale = all.filter((s) => time(object(s)) <= Math.max(newest, time(join(here, s))));
  // The largest first, so that the last one to end is short.
  stale.sort((a, b) => statSync(join(here, b)).size - statSync(join(here, a)).size);
  let at = 0;
  const worker = async () => {
    while (at < stale.length) {
      const source = stale[at++];
      say(`[${at}/${stale.length}] ${source}`);
      await clang([...flags, '-c', join(here, source), '-o', object(source)]);
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  return Promise.all(
    wanted.map(async (target) => {
      const program = join(output, target);
      const objects = sources(target).map(object);
      if (target !== 'ring_consumer') objects.push(archive);
      if (time(program) <= Math.max(...objects.map(time)))
        await clang([...objects, `-fsanitize=fuzzer,${sanitizers}`, '-lpthread', '-o', program]);
      return program;
    }),
  );
}
