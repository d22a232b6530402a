/**
 * Commands per second of our TPM and of swtpm, in the same run: both behind a unix socket, with their state in the same kind of
 * directory, asked by the same client, one command after the other. swtpm never waits for the disk, so ours does not either
 * (--no-sync), but where it says so. Then the device: commands through its registers over the exit ring, as a guest's driver gives them;
 * that has no peer (QEMU's is inside its vCPU). LOAD_SECONDS=n for each figure, ROUNDS=n, ONLY=part of the names of figures, DIR=where
 * the states are.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  ALG,
  type CommandName,
  commandBytes,
  type In,
  NVA,
  nullScheme,
  parseResponse,
  RH,
  ringTpm,
  templates,
} from '@nyx/service-tpm/testing';
import { noise, quantile } from './noise.ts';

const seconds = Number(process.env.LOAD_SECONDS ?? 0.6);
const rounds = Number(process.env.ROUNDS ?? 5);
const only = process.env.ONLY ?? '';
const dir = mkdtempSync(join(process.env.DIR ?? tmpdir(), 'tpm-bench-'));
const client = join(dir, 'client');
execFileSync('cc', ['-O2', '-o', client, join(import.meta.dirname, 'tpm-client.c')]);

const none = Buffer.alloc(0);
const noAuth = { userAuth: none, data: none };
const made = { outsideInfo: none, creationPCR: [] };
const [ecc, rsa, free] = [0x80000000, 0x80000001, 0x80000002];
const rsa2048 = { ...templates.rsa, parameters: { ...templates.rsa.parameters, keyBits: 2048 } };
const nvIndex = 0x01500001;
const primary = (inPublic: typeof rsa2048, data = noAuth): Buffer =>
  commandBytes('CreatePrimary', { primaryHandle: RH.OWNER, inSensitive: data, inPublic, ...made });
const flush = commandBytes('FlushContext', { flushHandle: free });
/** Keys of different seeds, so that the luck of one does not decide. */
const keys = (inPublic: typeof rsa2048, n: number): Buffer =>
  Buffer.concat(
    Array.from({ length: n }, (_, i) => {
      const unique = { x: Buffer.alloc(32, i), y: Buffer.alloc(inPublic.type === ALG.ECC ? 32 : 0, i) };
      return Buffer.concat([primary({ ...inPublic, unique }), flush]);
    }),
  );
const digest = Buffer.alloc(32, 7);
const validation = { tag: 0x8024, hierarchy: RH.NULL, digest: none };
const ecdsa = { ...nullScheme, scheme: ALG.ECDSA, hashAlg: ALG.SHA256 };
const rsassa = { ...nullScheme, scheme: ALG.RSASSA, hashAlg: ALG.SHA256 };
const sign = (keyHandle: number, inScheme: typeof nullScheme): Buffer =>
  commandBytes('Sign', { keyHandle, digest, inScheme, validation });
const nv = { authHandle: RH.OWNER, nvIndex };
const write = (octet: number): Buffer =>
  commandBytes('NV_Write', { ...nv, data: Buffer.alloc(64, octet), offset: 0 });
const pcrs = [{ hash: ALG.SHA256, pcrSelect: Buffer.from([0, 0, 1]) }];

/** Name, commands of a round, how many of them count. */
const figures: [name: string, bytes: Buffer, per: number][] = [
  ['GetRandom, 32 octets', commandBytes('GetRandom', { bytesRequested: 32 }), 1],
  [
    'PCR_Extend, SHA-256',
    commandBytes('PCR_Extend', { pcrHandle: 16, digests: [{ hashAlg: ALG.SHA256, digest }] }),
    1,
  ],
  ['CreatePrimary ECC P-256', keys(templates.signer, 4), 4],
  ['CreatePrimary RSA 2048', keys(rsa2048, 8), 8],
  ['Sign ECDSA P-256', sign(ecc, ecdsa), 1],
  ['Sign RSASSA 2048', sign(rsa, rsassa), 1],
  [
    'Quote, ECDSA P-256',
    commandBytes('Quote', { signHandle: ecc, qualifyingData: digest, inScheme: ecdsa, PCRselect: pcrs }),
    1,
  ],
  ['NV_Write, 64 octets', Buffer.concat([write(1), write(2)]), 2],
  ['NV_Read, 64 octets', commandBytes('NV_Read', { ...nv, size: 64, offset: 0 }), 1],
];

const answer = (path: string, bytes: Buffer): Promise<Buffer> =>
  new Promise((resolve, reject) => {
    let got = Buffer.alloc(0);
    const s = connect(path, () => s.write(bytes));
    s.on('error', reject);
    s.on('data', (b) => {
      got = Buffer.concat([got, b]);
      if (got.length < 10 || got.length < got.readUInt32BE(2)) return;
      s.destroy();
      resolve(got);
    });
  });

class Tpm {
  readonly name: string;
  readonly socket: string;
  private readonly child: ChildProcess;
  constructor(
    name: string,
    program: string,
    args: (state: string, data: string, control: string) => string[],
  ) {
    this.name = name;
    const state = join(dir, name);
    mkdirSync(state);
    this.socket = join(state, 'data');
    this.child = spawn(program, args(state, this.socket, join(state, 'control')), {
      stdio: 'ignore',
    });
  }
  private async ok<N extends CommandName>(name: N, input: In<N>): Promise<number> {
    const response = await answer(this.socket, commandBytes(name, input));
    if (response.readUInt32BE(6) !== 0)
      throw new Error(`${this.name}: ${name} 0x${response.readUInt32BE(6).toString(16)}`);
    const out = parseResponse(name, response) as { handle?: number };
    return out.handle ?? 0;
  }
  async prepare(): Promise<void> {
    for (let i = 0; i < 200 && !existsSync(this.socket); i++) await sleep(25);
    await sleep(100);
    for (const [inPublic, handle] of [
      [templates.signer, ecc],
      [rsa2048, rsa],
    ] as const) {
      const got = await this.ok('CreatePrimary', {
        primaryHandle: RH.OWNER,
        inSensitive: noAuth,
        inPublic,
        ...made,
      });
      if (got !== handle) throw new Error(`${this.name}: handle 0x${got.toString(16)}`);
    }
    const attributes = NVA.OWNERREAD | NVA.OWNERWRITE | NVA.NO_DA;
    const publicInfo = { nvIndex, nameAlg: ALG.SHA256, attributes, authPolicy: none, dataSize: 64 };
    await this.ok('NV_DefineSpace', { authHandle: RH.OWNER, auth: none, publicInfo });
    await this.ok('NV_Write', { ...nv, data: Buffer.alloc(64), offset: 0 });
  }
  /** Per second, and CPU microseconds of the TPM for each. */
  measure(bytes: Buffer, per: number): { rate: number; cpu: number } {
    const before = this.cpu();
    const said = execFileSync(client, [this.socket, String(seconds)], { input: bytes, encoding: 'utf8' });
    const [lists, passed, failed] = said.split(' ').map(Number) as [number, number, number];
    if (failed > 0) throw new Error(`${this.name}: ${failed} commands failed`);
    const n = lists * per;
    return { rate: n / passed, cpu: ((this.cpu() - before) * 1e4) / n };
  }
  /** In ticks of 10 ms, all threads. */
  private cpu(): number {
    const fields = readFileSync(`/proc/${this.child.pid}/stat`, 'latin1').split(') ')[1]!.split(' ');
    return Number(fields[11]) + Number(fields[12]);
  }
  end(): void {
    this.child.kill('SIGKILL');
  }
}

const program = join(import.meta.dirname, '../../services/tpm/dist/tpm.cjs');
const nyx = (name: string, ...more: string[]): Tpm =>
  new Tpm(name, process.execPath, (state, data, control) => [
    program,
    ...['serve', '--state', state, '--swtpm', data, '--ctrl', control, '--not-need-init', '--startup-clear'],
    ...more,
  ]);
const tpms = [nyx('nyx', '--no-sync')];
if (spawnSync('which', ['swtpm']).status === 0) {
  tpms.push(
    new Tpm('swtpm', 'swtpm', (state, data, control) => [
      ...['socket', '--tpm2', '--tpmstate', `dir=${state}`, '--flags', 'not-need-init,startup-clear'],
      ...['--server', `type=unixio,path=${data}`, '--ctrl', `type=unixio,path=${control}`],
    ]),
  );
} else console.log('swtpm is not installed (apt: swtpm): no peer');

try {
  console.log(await noise());
  for (const t of tpms) await t.prepare();
  console.log(
    `states in ${dir}; median of ${rounds} rounds of ${seconds} s (least..most), CPU us of the TPM for each command`,
  );
  const compare = (among: Tpm[], name: string, bytes: Buffer, per: number): void => {
    const results = among.map(() => [] as { rate: number; cpu: number }[]);
    // Warm: the compiler has seen it.
    for (const t of among) t.measure(bytes, per);
    for (let r = 0; r < rounds; r++)
      for (const [i, t] of among.entries()) results[i]!.push(t.measure(bytes, per));
    const rates = results.map((list) => list.map((x) => x.rate));
    const cells = results.map((list, i) => {
      const range = `(${Math.min(...rates[i]!).toFixed(0)}..${Math.max(...rates[i]!).toFixed(0)})`;
      const cpu = quantile(
        list.map((x) => x.cpu),
        0.5,
      ).toFixed(0);
      return `${among[i]!.name} ${quantile(rates[i]!, 0.5).toFixed(0).padStart(6)}/s ${range.padEnd(16)} ${cpu.padStart(6)} us`;
    });
    const ratio = (f: (list: number[]) => number): string => (f(rates[0]!) / f(rates[1]!)).toFixed(2);
    const ratios =
      rates.length < 2 ? '' : `   x${ratio((l) => quantile(l, 0.5))}, best x${ratio((l) => Math.max(...l))}`;
    console.log(`${name.padEnd(26)} ${cells.join('   ')}${ratios}`);
  };
  for (const [name, bytes, per] of figures) {
    if (name.includes(only)) compare(tpms, name, bytes, per);
  }
  const durable = nyx('nyx-sync');
  tpms.push(durable);
  await durable.prepare();
  compare([durable], 'NV_Write, on the disk', Buffer.concat([write(1), write(2)]), 2);
  for (const model of ['crb', 'tis'] as const) {
    const { driver, end } = await ringTpm([process.execPath, program], model);
    try {
      await driver.open();
      await driver.transact(commandBytes('Startup', { startupType: 0 }));
      for (const [name, bytes] of figures.slice(0, 2)) {
        const micros: number[] = [];
        const until = performance.now() + 1000 * seconds;
        while (performance.now() < until) {
          const t = performance.now();
          driver.transactBusily(bytes);
          micros.push(1000 * (performance.now() - t));
          // The process of the device is another one, the rings are served from here.
          if (micros.length % 64 === 0) await sleep(0);
        }
        const q = (p: number): string => quantile(micros, p).toFixed(0);
        console.log(
          `${`${model}, ${name}`.padEnd(26)} ${q(0.5)} us a command (best ${q(0)}, p90 ${q(0.9)}), ${micros.length} of them`,
        );
      }
    } finally {
      await end();
    }
  }
} finally {
  for (const t of tpms) t.end();
  rmSync(dir, { recursive: true, force: true });
}
