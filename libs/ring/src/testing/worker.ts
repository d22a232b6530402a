/**
 * A vCPU for tests, on a thread of its own: `n` writes of 1, 2, 3 ... to the counter device, every third posted.
 * Checks every reply; posts {done, wrong} when all are answered.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { createTestProducer } from '@nyx/native';
import { mapRings } from '../rings.ts';
import { ExitKind, slotPosted } from '../wire.ts';

export interface WorkerData {
  rings: number;
  kick: number;
  n: number;
}

export function main(): void {
  const { rings, kick, n } = workerData as WorkerData;
  const producer = createTestProducer(mapRings(rings), 0, kick);
  let wrong = 0;
  let total = 0;
  for (let i = 1; i <= n; i++) {
    total += i;
    if (i % 3 === 0) {
      while (!producer.publish(ExitKind.write, 0, 0, 0, 4, i, 0, 1, slotPosted)) producer.await(1e6);
      continue;
    }
    if (producer.sync(ExitKind.write, 0, 0, 0, 4, i, 0) < 0) throw new Error('no reply');
    if (producer.result[1]! * 4294967296 + producer.result[0]! !== total || producer.result[2] !== 0) wrong++;
  }
  producer.await(Number.POSITIVE_INFINITY);
  parentPort?.postMessage({ done: n, wrong });
}
