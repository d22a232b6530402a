/** Log records of a machine, wherever they lie: lines of its log files, and the log rings of its device processes. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { LogReader } from '@nyx/log/ring';
import { files } from '@nyx/nyx/files';

export interface LogRecord {
  /** UTC milliseconds; of a line without a time, that of the line before. */
  at: number;
  /** Process that wrote it. */
  process: string;
  /** JSON, or what else the line was. */
  line: string;
}

/** New records of a text file since the last look. */
class Lines {
  #seen = 0;
  #at = 0;
  constructor(
    readonly path: string,
    readonly process: string,
  ) {}

  read(): LogRecord[] {
    if (!existsSync(this.path)) return [];
    const bytes = readFileSync(this.path);
    const end = bytes.lastIndexOf(10) + 1;
    if (end <= this.#seen) return [];
    const lines = bytes
      .subarray(this.#seen, end - 1)
      .toString()
      .split('\n');
    this.#seen = end;
    return lines.map((line) => {
      const time = /"time":"?([^",}]+)/.exec(line)?.[1];
      if (time !== undefined) this.#at = new Date(Number(time) || time).getTime();
      return { at: this.#at, process: this.process, line };
    });
  }
}

/** New records of a log ring since the last look. */
class Ring {
  #last = 0;
  constructor(
    readonly path: string,
    readonly process: string,
  ) {}

  read(): LogRecord[] {
    const bytes = readFileSync(this.path);
    let reader: LogReader;
    try {
      reader = new LogReader(
        bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length) as ArrayBuffer,
      );
    } catch {
      // Its process made it shorter; what it wrote is not to be believed.
      return [];
    }
    const entries = reader.read(this.#last);
    this.#last = reader.last;
    return entries.map((e) => ({
      at: e.hostMs,
      process: this.process,
      line: JSON.stringify({
        level: e.level,
        time: e.hostMs,
        component:
          e.component === '' || e.component === this.process
            ? this.process
            : `${this.process}/${e.component}`,
        guestMs: Math.round(e.guestNs / 1e6),
        message: e.truncated ? `${e.text} ...` : e.text,
      }),
    }));
  }
}

/** Names of the device processes that have a log ring. */
export const rings = (dir: string): string[] =>
  readdirSync(dir)
    .filter((n) => n.endsWith(files.ring))
    .map((n) => n.slice(0, -files.ring.length))
    .sort();

/** All records of a machine; `read` gives those since the last call, oldest first. */
export class Records {
  readonly #sources: { read(): LogRecord[] }[];

  /** @param only the ring of that process alone */
  constructor(dir: string, only?: string) {
    this.#sources =
      only === undefined
        ? [
            ...[
              [files.log, 'nyxd'],
              [files.vcpuLog, 'nyx-vcpu'],
              [files.deviceLog, 'devices'],
            ].map(([file, name]) => new Lines(join(dir, file!), name!)),
            ...rings(dir).map((name) => new Ring(join(dir, name + files.ring), name)),
          ]
        : [new Ring(join(dir, only + files.ring), only)];
  }

  read(): LogRecord[] {
    return this.#sources.flatMap((s) => s.read()).sort((a, b) => a.at - b.at);
  }
}
