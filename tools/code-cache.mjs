// Writes V8's code cache of a bundle: `node [V8 flags] tools/code-cache.mjs BUNDLE.js CACHE [argument...]`. The bundle is run with the
// arguments, so that the functions which every start calls are in the cache as well; it is written when the process ends,
// however it ends. V8 refuses a cache that was made with other flags than those it is used with.
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { Script } from 'node:vm';

const [bundle, cache, ...args] = process.argv.slice(2);
const script = new Script(readFileSync(bundle, 'latin1'), { filename: bundle });
const write = () => writeFileSync(cache, script.createCachedData());
// A service may end without a word to Node.
write();
process.on('exit', write);
process.on('uncaughtException', () => process.exit(0));
// Services wait for a role.
setTimeout(() => process.exit(0), 500);
process.argv = [process.argv[0], bundle, ...args];
const module = { exports: {} };
script.runInThisContext()(module.exports, createRequire(bundle), module, bundle, dirname(bundle));
