/** QEMU's own chips through its qtest protocol: an oracle for tests. The machine is stopped: no CPU runs, and no time passes. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

export const qemuVersion = (): string | undefined => {
  try {
    return execFileSync('qemu-system-x86_64', ['--version'], { encoding: 'utf8' }).split('\n')[0];
  } catch {
    return undefined;
  }
};

export class Qtest {
  readonly #child: ChildProcess;
  readonly #waiting: ((line: string) => void)[] = [];
  #ended = false;

  constructor(args: readonly string[] = []) {
    this.#child = spawn(
      'qemu-system-x86_64',
      [
        '-machine',
        'q35,accel=tcg,hpet=off',
        '-S',
        '-nodefaults',
        '-display',
        'none',
        '-serial',
        'null',
        '-rtc',
        'base=2024-02-28T23:59:57,clock=vm',
        '-qtest',
        'stdio',
        '-qtest-log',
        'none',
        ...args,
      ],
      {
        stdio: ['pipe', 'pipe', 'inherit'],
      },
    );
    this.#child.on('exit', () => {
      this.#ended = true;
      for (const answer of this.#waiting.splice(0)) answer('QEMU has ended');
    });
    createInterface({ input: this.#child.stdout! }).on('line', (line) => {
      // Interrupt notices are not answers.
      if (!line.startsWith('IRQ')) this.#waiting.shift()?.(line);
    });
  }

  ask(command: string): Promise<string> {
    if (this.#ended) return Promise.reject(new Error('QEMU has ended'));
    return new Promise((resolve, reject) => {
      this.#waiting.push((line) =>
        line.startsWith('OK') ? resolve(line.slice(3)) : reject(new Error(`${command}: ${line}`)),
      );
      this.#child.stdin!.write(`${command}\n`);
    });
  }
  async inb(port: number): Promise<number> {
    return Number(await this.ask(`inb 0x${port.toString(16)}`));
  }
  async outb(port: number, value: number): Promise<void> {
    await this.ask(`outb 0x${port.toString(16)} 0x${value.toString(16)}`);
  }
  async read(address: number, width: 1 | 2 | 4): Promise<number> {
    return Number(
      await this.ask(`${{ 1: 'readb', 2: 'readw', 4: 'readl' }[width]} 0x${address.toString(16)}`),
    );
  }
  async write(address: number, width: 1 | 2 | 4, value: number): Promise<void> {
    await this.ask(
      `${{ 1: 'writeb', 2: 'writew', 4: 'writel' }[width]} 0x${address.toString(16)} 0x${value.toString(16)}`,
    );
  }
  /** Configuration space of a function of bus 0, by ports 0xcf8 and 0xcfc. */
  async configRead(devfn: number, register: number, width: 1 | 2 | 4): Promise<number> {
    await this.ask(`outl 0xcf8 0x${(0x80000000 + devfn * 256 + (register & 0xfc)).toString(16)}`);
    const port = `0x${(0xcfc + (register & 3)).toString(16)}`;
    return Number(await this.ask(`${{ 1: 'inb', 2: 'inw', 4: 'inl' }[width]} ${port}`));
  }
  async configWrite(devfn: number, register: number, width: 1 | 2 | 4, value: number): Promise<void> {
    await this.ask(`outl 0xcf8 0x${(0x80000000 + devfn * 256 + (register & 0xfc)).toString(16)}`);
    const port = `0x${(0xcfc + (register & 3)).toString(16)}`;
    await this.ask(`${{ 1: 'outb', 2: 'outw', 4: 'outl' }[width]} ${port} 0x${value.toString(16)}`);
  }
  close(): void {
    this.#child.kill();
  }
}
