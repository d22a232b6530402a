/** What nyxd hears and says at the guest's serial ports and debug port: console, commands, log of the firmware. */
import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import { sockets } from '@nyx/protocol/control';
import { ConsoleServer, HostConsole } from './console.ts';
import { ExecChannel, type ExecMark, serveExec } from './exec.ts';
import type { Resources } from './resources.ts';

export class GuestChannels {
  readonly exec: ExecChannel;
  readonly #consoles: HostConsole[];
  readonly #clients: ConsoleServer;
  readonly #execServer: { close(): void };

  /**
   * @param agent the guest's agent listens
   * @param command that the guest was started with
   */
  constructor(r: Resources, dir: string, consoleLog: string, agent: () => void, command?: string) {
    this.#clients = new ConsoleServer(join(dir, sockets.console), consoleLog, (b) =>
      this.#consoles[0]!.write(b),
    );
    this.exec = new ExecChannel((b) => this.#consoles[1]!.write(b), agent, command);
    const host = (name: string, output: (b: Buffer, lost: number) => void): HostConsole => {
      const buffer = r.console(name);
      return new HostConsole(buffer, r.named.get(`${name}.out`)!, r.named.get(`${name}.in`)!, output);
    };
    this.#consoles = [
      host('com1', (b) => this.#clients.output(b)),
      host('com2', (b, lost) => this.exec.feed(b, lost)),
      host('debug', (b) => appendFileSync(join(dir, 'debugcon.log'), b)),
    ];
    this.#execServer = serveExec(join(dir, sockets.exec), this.exec);
  }

  /** All output so far is out; where the channels stand, for `back`. Their memory is the caller's. */
  mark(): ExecMark {
    for (const c of this.#consoles) c.drain();
    return this.exec.mark();
  }

  /** The guest is where it was at `mark`, and so is the memory of the consoles. */
  back(mark: ExecMark): void {
    for (const c of this.#consoles) c.forget();
    this.exec.back(mark, 'the machine was rolled back');
  }

  /** The machine has stopped; resolves when console clients have everything. */
  close(): Promise<void> {
    for (const c of this.#consoles) c.close();
    this.exec.close('the machine has stopped');
    this.#execServer.close();
    return this.#clients.close();
  }
}
