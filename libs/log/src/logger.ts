/** Logs of the supervisor and the command line: pino, one child per component, a level for each. */
import pino, { type DestinationStream, type Logger as PinoLogger } from 'pino';
import { type Level, parseLevels } from './levels.ts';
import type { LogEntry } from './ring.ts';

export type Logger = PinoLogger;

export interface LogsOptions {
  /** As in parseLevels (default 'info'). */
  levels?: string;
  /** A stream, or a path or descriptor that is written synchronously (default: standard error). */
  destination?: DestinationStream | string | number;
  /** Fields of every line, e.g. the VM's name. */
  base?: Record<string, unknown>;
}

/** All loggers of a process. */
export class Logs {
  readonly #root: PinoLogger;
  readonly #levels: ReturnType<typeof parseLevels>;
  readonly #loggers = new Map<string, PinoLogger>();

  /** @throws Error with code LOG_LEVELS. */
  constructor(options: LogsOptions = {}) {
    this.#levels = parseLevels(options.levels ?? 'info');
    const to = options.destination ?? 2;
    const stream = typeof to === 'object' ? to : pino.destination({ dest: to, sync: true, mkdir: true });
    this.#root = pino(
      {
        level: 'trace',
        base: options.base ?? {},
        timestamp: pino.stdTimeFunctions.isoTime,
        formatters: { level: (label) => ({ level: label }) },
      },
      stream,
    );
  }

  logger(component: string): Logger {
    let logger = this.#loggers.get(component);
    if (logger === undefined) {
      const level = this.#levels.byComponent.get(component) ?? this.#levels.base;
      logger = this.#root.child({ component }, { level });
      this.#loggers.set(component, logger);
    }
    return logger;
  }

  /** Changes the level of one component, or of all without a name, while the process runs. */
  setLevel(level: Level, component?: string): void {
    if (component === undefined) {
      this.#levels.base = level;
      this.#levels.byComponent.clear();
      for (const logger of this.#loggers.values()) logger.level = level;
      return;
    }
    this.#levels.byComponent.set(component, level);
    this.logger(component).level = level;
  }

  /** Passes on what a device process wrote to its log ring. */
  forward(process: string, entries: readonly LogEntry[]): void {
    for (const e of entries)
      this.logger(process)[e.level](
        { device: e.component, guestNs: e.guestNs, at: e.hostMs, seq: e.seq },
        e.text,
      );
  }
}
