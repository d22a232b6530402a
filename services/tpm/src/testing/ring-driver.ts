/** The device process of a TPM with a driver at its exit ring, without a machine. */

import { setTimeout as sleep } from 'node:timers/promises';
import { Served } from '@nyx/device/served';
import { close, memfdCreate } from '@nyx/native';
import { ExitKind } from '@nyx/ring';
import { bulkBytes } from '../device/requests.ts';

const SECOND = 1_000_000_000;
const stateBytes = 4 << 20;

/** What a driver does, over the ring. A request that was not answered before the process died is answered by the next. */
export class Driver {
  constructor(
    readonly s: Served,
    readonly model: 'tis' | 'crb',
  ) {}
  #sync(kind: number, offset: number, width: number, value: number): number {
    if (this.s.cpu.sync(kind, 0, 0, offset, width, value, 0, 1, 20 * SECOND) < 0)
      throw new Error(`no answer: ${this.s.stderr}`);
    return this.s.cpu.result[0]!;
  }
  read(offset: number, width: number): number {
    return this.#sync(ExitKind.read, offset, width, 0);
  }
  write(offset: number, width: number, value: number): void {
    this.#sync(ExitKind.write, offset, width, value);
  }
  async until(condition: () => boolean): Promise<void> {
    for (let i = 0; !condition(); i++) {
      if (i > 100_000) throw new Error(`it does not come: ${this.s.stderr}`);
      await sleep(1);
    }
  }
  async open(): Promise<void> {
    if (this.model === 'tis') {
      await this.until(() => (this.read(0, 1) & 0x80) !== 0);
      this.write(0, 1, 2);
    } else {
      await this.until(() => (this.read(0, 4) & 0x80) !== 0);
      this.write(8, 4, 1);
    }
  }
  /** Hands the command over and says go. */
  send(command: Buffer): void {
    if (this.model === 'tis') {
      this.write(0x18, 1, 0x40);
      for (const b of command) this.write(0x24, 1, b);
      this.write(0x18, 1, 0x20);
    } else {
      this.write(0x40, 4, 1);
      for (let i = 0; i < command.length; i += 4) {
        const n = Math.min(4, command.length - i);
        if (n === 4) this.write(0x80 + i, 4, command.readUInt32LE(i));
        else for (let k = 0; k < n; k++) this.write(0x80 + i + k, 1, command[i + k]!);
      }
      this.write(0x4c, 4, 1);
    }
  }
  ready(): boolean {
    return this.model === 'tis' ? (this.read(0x18, 1) & 0x10) !== 0 : this.read(0x4c, 4) === 0;
  }
  receive(): Buffer {
    const next = (i: number): number => (this.model === 'tis' ? this.read(0x24, 1) : this.read(0x80 + i, 1));
    const head = Buffer.from(Array.from({ length: 10 }, (_, i) => next(i)));
    const rest = Array.from({ length: head.readUInt32BE(2) - 10 }, (_, i) => next(10 + i));
    return Buffer.concat([head, Buffer.from(rest)]);
  }
  /** The same without a pause between the looks, as a guest's driver may do. */
  transactBusily(command: Buffer): Buffer {
    this.send(command);
    while (!this.ready());
    return this.receive();
  }
  async transact(command: Buffer): Promise<Buffer> {
    this.send(command);
    await this.until(() => this.ready());
    return this.receive();
  }
}

/** A TPM whose state is memory, served by `program`; call `end` when it is over. */
export async function ringTpm(
  program: readonly string[],
  model: 'tis' | 'crb',
): Promise<{ driver: Driver; end(): Promise<void> }> {
  const fds = { buffer: memfdCreate('buffer', bulkBytes), state: memfdCreate('state', stateBytes) };
  const config = { backend: 'own', first: 1000 };
  const irqs = model === 'tis' ? 16 : 0;
  const served = new Served([...program], [{ name: 'tpm', kind: `tpm-${model}`, irqs, config, fds }]);
  await served.start();
  return {
    driver: new Driver(served, model),
    async end() {
      await served.kill();
      for (const fd of Object.values(fds)) close(fd);
    },
  };
}
