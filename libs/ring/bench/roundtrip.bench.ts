/**
 * What an exit costs: a producer process (the vCPU's side, native) and this process (the device's side: the
 * TypeScript handler with its commit), beside two native threads that do nothing but play ping-pong.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { struct, u32, u64 } from '@nyx/layout';
import {
  benchPingPong,
  cpuCount,
  createTestProducer,
  ctl,
  eventfd,
  memfdCreate,
  mmap,
  pinThread,
  setPdeathsig,
} from '@nyx/native';
import {
  blockBytes,
  ExitKind,
  ExitServer,
  formatRings,
  mapRings,
  ringsBytes,
  StateBlock,
} from '../src/index.ts';

const N = 200_000;

const percentile = (sorted: Float64Array, p: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * p))]!;
const line = (name: string, samples: Float64Array, total = 0): void => {
  const s = samples.slice().sort();
  const us = (p: number) => (percentile(s, p) / 1000).toFixed(2).padStart(8);
  const rate = total ? `${Math.round((samples.length / total) * 1e9).toLocaleString('en')}/s` : '';
  console.log(`${name.padEnd(44)} p50 ${us(0.5)} us  p99 ${us(0.99)} us  p99.9 ${us(0.999)} us  ${rate}`);
};

// Apart, as the kernel does it on a machine with CPUs to spare. Only the calling thread.
const pin = (cpu: number): void => {
  if (cpuCount() > 1) pinThread(cpu);
};

function producer(): void {
  const rings = mapRings(3);
  const p = createTestProducer(rings, 0, 4);
  const out = new Float64Array(N);
  line('sync write, wherever the scheduler puts us', out, p.bench(N, ExitKind.write, 0, 0, 0, 4, out));
  pin(1);
  p.bench(50_000, ExitKind.read, 0, 0, 0, 4, new Float64Array(50_000));
  for (let round = 1; round <= 3; round++) {
    const total = p.bench(N, ExitKind.write, 0, 0, 0, 4, out);
    line(`sync write, TypeScript handler and commit, #${round}`, out, total);
  }
  const noCommit = p.bench(N, ExitKind.read, 0, 0, 0, 4, out);
  line('sync read, no commit', out, noCommit);
  const posted = p.benchPosted(N, 0, 0, 0, 4, out);
  line('posted write, producer side', out, posted);
  p.await(1e9);
}

function floors(): void {
  if (cpuCount() < 2) console.log('one CPU: nothing can spin here, the figures are those of sleeping');
  const out = new Float64Array(N);
  benchPingPong('spin', N, out);
  line('two native threads, spinning', out);
  const few = new Float64Array(20_000);
  benchPingPong('futex', few.length, few);
  line('two native threads, futex', few);
}

async function consumer(): Promise<void> {
  floors();
  const fd = memfdCreate('rings', ringsBytes(1));
  formatRings(mmap(fd, ringsBytes(1)), 1);
  const kick = eventfd();
  const State = struct('Bench', { value: u64(), writes: u32(), rest: u32() });
  const spec = { kind: 'bench', stateVersion: 1, state: State, ranges: 1 };
  const stateFd = memfdCreate('state', blockBytes(spec));
  const block = new StateBlock(mmap(stateFd, blockBytes(spec)), spec);
  const server: ExitServer = new ExitServer({
    rings: mapRings(fd),
    kick,
    onExit() {
      const words = server.ctl;
      if (words[ctl.kind] === ExitKind.read) return server.reply(block.state.valueLo, block.state.valueHi, 0);
      block.state.valueLo = words[ctl.dataLo]!;
      block.state.writes++;
      server.commit(block, 0, 0, 0);
    },
  });
  server.addBlock(block);
  server.attach();
  server.start();
  const child = spawn(process.execPath, [...process.execArgv, fileURLToPath(import.meta.url), 'producer'], {
    stdio: ['ignore', 'inherit', 'inherit', fd, kick],
  });
  pin(0);
  const [code] = await once(child, 'exit');
  console.log(
    `half of ${block.halfBytes} bytes, ${block.state.writes} writes, ${server.malformed} malformed`,
  );
  server.close();
  process.exitCode = code;
}

if (process.argv[2] === 'producer') {
  setPdeathsig(9);
  producer();
} else await consumer();
