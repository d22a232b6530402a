#!/usr/bin/env node
// Runs tpm2-tss's own integration tests against our sockets and against swtpm, each test with a TPM of its own that has just
// left its manufacturer, and prints the results side by side. Ends with 1 when one that swtpm passes fails here and is not in
// `reasons` below.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const usage = `usage: tss-tests.mjs BUILD [--only PATTERN] [--table FILE] [--logs DIR]
  BUILD    a tpm2-tss source tree, built: ./bootstrap && ./configure --enable-integration && make && make check TESTS=
  --only   names that match this regular expression
  --table  writes the results as a Markdown table
  --logs   keeps what failing tests print
`;

/** Tests that swtpm passes and we do not, and why. */
const reasons = {};

const args = process.argv.slice(2);
const option = (name) => {
  const i = args.indexOf(name);
  return i < 0 ? undefined : args.splice(i, 2)[1];
};
const [only, table, logs] = ['--only', '--table', '--logs'].map(option);
const build = args[0] && resolve(args[0]);
if (args.length !== 1 || !existsSync(join(build, 'test/integration'))) {
  process.stderr.write(
    args.length === 1 && !build.startsWith('-') ? `${build} has no test/integration\n` : usage,
  );
  process.exit(args.includes('--help') ? 0 : 2);
}
const ours = process.env.TPM_BUNDLE ?? join(dirname(fileURLToPath(import.meta.url)), '../dist/tpm.cjs');
const swtpm = spawnSync('which', ['swtpm']).status === 0;

/** A port that is free, and the one above it. */
async function freePort() {
  for (;;) {
    const at = (port) =>
      new Promise((done) => {
        const s = createServer().once('error', () => done(undefined));
        s.listen(port, '127.0.0.1', () => done(s));
      });
    const a = await at(0);
    const { port } = a.address();
    const b = await at(port + 1);
    await new Promise((done) => a.close(done));
    if (!b) continue;
    await new Promise((done) => b.close(done));
    return port;
  }
}
const reachable = (port) =>
  new Promise((done) => {
    const s = connect(port, '127.0.0.1', () => done(true)).on('error', () => done(false));
    s.on('connect', () => s.destroy());
  });

const columns = {
  'Nyx, swtpm TCTI': {
    tcti: 'swtpm',
    start: (port, dir) => [
      process.execPath,
      ours,
      'serve',
      '--state',
      dir,
      '--swtpm',
      port,
      '--not-need-init',
    ],
  },
  'Nyx, mssim TCTI': {
    tcti: 'mssim',
    start: (port, dir) => [process.execPath, ours, 'serve', '--state', dir, '--mssim', port],
  },
  ...(swtpm && {
    swtpm: {
      tcti: 'swtpm',
      start: (port, dir) =>
        ['swtpm', 'socket', '--tpm2', '--tpmstate', `dir=${dir}`, '--flags', 'not-need-init'].concat([
          '--server',
          `type=tcp,port=${port}`,
          '--ctrl',
          `type=tcp,port=${Number(port) + 1}`,
        ]),
    },
  }),
};

async function run(test, column) {
  const { tcti, start } = columns[column];
  const dir = mkdtempSync(join(tmpdir(), 'tss-tests-'));
  const port = await freePort();
  const [program, ...more] = start(String(port), dir);
  const server = spawn(program, more, { stdio: ['ignore', 'ignore', 'pipe'] });
  const said = [];
  server.stderr.on('data', (b) => said.push(b));
  for (let i = 0; i < 1500 && !(await reachable(port + 1)); i++) await new Promise((r) => setTimeout(r, 20));
  const env = {
    ...process.env,
    TPM20TEST_TCTI: `${tcti}:host=127.0.0.1,port=${port}`,
    TSS2_LOG: 'all+ERROR',
  };
  const child = spawn(test, [], { env, cwd: build, stdio: ['ignore', 'pipe', 'pipe'] });
  child.stdout.on('data', (b) => said.push(b));
  child.stderr.on('data', (b) => said.push(b));
  const timer = setTimeout(() => child.kill('SIGKILL'), 180_000);
  const [code, signal] = await new Promise((done) => child.on('close', (...how) => done(how)));
  clearTimeout(timer);
  server.kill();
  await new Promise((done) => (server.exitCode !== null ? done() : server.on('close', done)));
  rmSync(dir, { recursive: true, force: true });
  const text = Buffer.concat(said).toString('latin1');
  const result = signal
    ? signal
    : code === 77
      ? 'skip'
      : code === 0 && !/Test returned/.test(text)
        ? 'pass'
        : 'fail';
  return { result, text };
}

const folder = resolve(build, 'test/integration');
const tests = readdirSync(folder)
  .filter((n) => /\.f?int$/.test(n) && (!only || new RegExp(only).test(n)))
  .sort();
const names = Object.keys(columns);
const rows = [];
let bad = 0;
if (logs) mkdirSync(logs, { recursive: true });
for (const [i, test] of tests.entries()) {
  const row = { name: basename(test).replace(/\.f?int$/, '') };
  for (const column of names) {
    const { result, text } = await run(join(folder, test), column);
    row[column] = result;
    if (result !== 'pass' && logs)
      writeFileSync(join(logs, `${row.name}.${column.replaceAll(/\W+/g, '-')}.log`), text);
  }
  const worse = names.some((c) => c !== 'swtpm' && row[c] !== 'pass' && row.swtpm === 'pass');
  if (worse && !reasons[row.name]) bad++;
  rows.push(row);
  const shown = names.map((c) => `${c}: ${row[c]}`).join('   ');
  process.stdout.write(`${i + 1}/${tests.length} ${row.name.padEnd(48)} ${shown}${worse ? '   <-' : ''}\n`);
}
const count = (c, r) => rows.filter((row) => row[c] === r).length;
for (const c of names) {
  const other = rows.length - count(c, 'pass') - count(c, 'skip');
  process.stdout.write(`${c}: ${count(c, 'pass')} pass, ${other} fail, ${count(c, 'skip')} skip\n`);
}
if (table) {
  const head = `| test | ${names.join(' | ')} | |\n|---|${'---|'.repeat(names.length + 1)}\n`;
  const lines = rows.map(
    (r) => `| ${r.name} | ${names.map((c) => r[c]).join(' | ')} | ${reasons[r.name] ?? ''} |\n`,
  );
  writeFileSync(table, head + lines.join(''));
}
process.exit(bad ? 1 : 0);
