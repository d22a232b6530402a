/** tpm2-tools against our sockets, beside swtpm where it is installed: the same script, the same answers. */
import { execFile, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, expect, test } from 'vitest';
import { MemoryStore } from '../core/store.ts';
import { TpmHost } from '../server/host.ts';
import { MssimServer } from '../server/mssim.ts';
import { SwtpmServer } from '../server/swtpm.ts';

const installed = (program: string) => spawnSync('which', [program]).status === 0;
const tools = installed('tpm2_startup');
const swtpm = installed('swtpm');
if (!tools) process.stdout.write('tpm2-tools are not installed (apt: tpm2-tools): not tested against them\n');
else if (!swtpm)
  process.stdout.write('swtpm is not installed (apt: swtpm): results are not compared with it\n');

/**
 * Where we differ from swtpm 0.7.1, and why. RSA_Decrypt of a text with wrong padding: RC_VALUE is what part 3 (14.3)
 * says; swtpm gives RC_FAILURE.
 */
const known = [/^\d+ tpm2_rsadecrypt -c rsa.ctx -p rsapass -s rsaes enc.oaep /];

/** A line without what differs from TPM to TPM: keys, nonces, times. */
const masked = (line: string) =>
  line.startsWith('~')
    ? line
        .replace(/[0-9a-fA-F]{16,}/g, 'HEX')
        .replace(/(time|clock|reset_?[cC]ount|restart_?[cC]ount|safe): .*/, '$1: N')
        .replace(/[0-9]{4,}/g, 'N')
    : line;

/** What was printed, cut into invocations. */
function blocks(text: string): string[] {
  const out: string[] = [];
  for (const line of text.split('\n').map(masked)) {
    if (/^\d+ .* -> \d+ /.test(line)) out.push(line);
    else if (out.length) out.push(`${out.pop()}\n${line}`);
  }
  return out;
}

const script = join(import.meta.dirname, 'tools.sh');
const scratch = mkdtempSync(join(tmpdir(), 'tpm-tools-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

function run(tcti: string): Promise<string[]> {
  const cwd = mkdtempSync(join(scratch, 'run-'));
  return new Promise((resolve) => {
    const env = { ...process.env, TPM2TOOLS_TCTI: tcti };
    execFile('bash', [script], { cwd, env, maxBuffer: 1 << 24 }, (_e, stdout) => resolve(blocks(stdout)));
  });
}
const tryPort = (s: Server, port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const no = () => resolve(false);
    s.once('error', no);
    s.listen(port, '127.0.0.1', () => resolve(!!s.off('error', no)));
  });
/** A free port with a free one above it; not of those that the kernel gives out, as swtpm takes them only a moment later. */
let candidate = 12_000 + 2 * (process.pid % 8000);
async function listen(a: Server, b: Server): Promise<number> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const port = candidate;
    candidate = 12_000 + ((candidate - 12_000 + 2) % 16_000);
    if (!(await tryPort(a, port))) continue;
    if (await tryPort(b, port + 1)) return port;
    await new Promise((resolve) => a.close(resolve));
  }
  throw new Error('no two free ports');
}

/** What the script gives with swtpm; undefined where that is not installed. */
let reference: Promise<string[] | undefined> | undefined;
async function swtpmBlocks(): Promise<string[] | undefined> {
  if (!swtpm) return undefined;
  const [a, b] = [createServer(), createServer()];
  const port = await listen(a, b);
  await Promise.all([a, b].map((s) => new Promise((resolve) => s.close(resolve))));
  const child = spawn('swtpm', [
    ...['socket', '--tpm2', '--tpmstate', `dir=${mkdtempSync(join(scratch, 'swtpm-'))}`],
    ...['--flags', 'not-need-init,startup-clear'],
    ...['--server', `type=tcp,port=${port}`, '--ctrl', `type=tcp,port=${port + 1}`],
  ]);
  const reachable = () =>
    new Promise<boolean>((resolve) => {
      const s = connect(port + 1, '127.0.0.1', () => resolve(true));
      s.on('error', () => resolve(false)).on('connect', () => s.destroy());
    });
  for (let i = 0; i < 1200 && !(await reachable()); i++) await sleep(50);
  return run(`swtpm:port=${port}`).finally(() => child.kill());
}

/** After every command its successor takes over. */
class Amnesiac extends TpmHost {
  constructor() {
    super({ store: new MemoryStore(), crashOnly: true });
  }
  override command(bytes: Buffer, locality: number): Buffer | undefined {
    const response = super.command(bytes, locality);
    this.resume();
    return response;
  }
}

test.skipIf(!tools).each(['one process', 'a new process after every command'])(
  'the script of tools gives what it gives with swtpm: %s',
  async (mode) => {
    const host = mode === 'one process' ? new TpmHost({}) : new Amnesiac();
    host.powerOn();
    host.startupClear();
    const server = new SwtpmServer(host);
    const [data, control] = [server.listen('data'), server.listen('control')];
    const port = await listen(data, control);
    try {
      reference ??= swtpmBlocks();
      const [ours, theirs] = await Promise.all([run(`swtpm:port=${port}`), reference]);
      expect(host.tpm?.failed).toBe(false);
      const done = ours.filter((l) => / -> 0 /.test(l));
      expect(done.length).toBeGreaterThan(250);
      if (theirs) {
        const differ = ours.flatMap((b, i) =>
          b === theirs[i] || known.some((k) => k.test(b)) ? [] : [{ ours: b, theirs: theirs[i] }],
        );
        expect(differ).toEqual([]);
        expect(ours.length).toBe(theirs.length);
      }
    } finally {
      data.close();
      control.close();
    }
  },
  400_000,
);

test.skipIf(!tools)(
  'the mssim TCTI and its platform port',
  async () => {
    const server = new MssimServer(new TpmHost({}));
    const [command, platform] = [server.listen('command'), server.listen('platform')];
    const port = await listen(command, platform);
    const tool = (...args: string[]) =>
      new Promise<string>((resolve, reject) => {
        const env = { ...process.env, TPM2TOOLS_TCTI: `mssim:port=${port}` };
        execFile(args[0]!, args.slice(1), { env }, (e, stdout, stderr) =>
          e ? reject(new Error(stderr)) : resolve(stdout),
        );
      });
    await tool('tpm2_startup', '-c');
    expect(await tool('tpm2_getrandom', '--hex', '8')).toMatch(/^[0-9a-f]{16}$/);
    expect(await tool('tpm2_pcrread', 'sha256:0')).toMatch(/0x0{64}/);
    command.close();
    platform.close();
  },
  60_000,
);
