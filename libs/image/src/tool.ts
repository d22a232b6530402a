/** Host programs: run to the end, with a coded error that holds what they said. */
import { spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { ImageError } from './errors.ts';

export interface ToolOptions {
  cwd?: string;
  /** Added to the environment. */
  env?: Record<string, string>;
  input?: Uint8Array;
  /** Gets descriptor 3 as lines. */
  onStatus?: (line: string) => void;
  /** Takes stdout instead of having it collected. */
  onOutput?: (stdout: Readable) => Promise<unknown>;
  /** What to do when the program is missing. */
  install?: string;
}

/** Programs write English and know nothing of the caller's preferences. sbin: mke2fs lies there on Debian. */
const environment = (): NodeJS.ProcessEnv => ({
  ...process.env,
  PATH: `${process.env.PATH ?? '/usr/bin:/bin'}:/usr/sbin:/sbin`,
  LC_ALL: 'C',
});

export interface ToolResult {
  status: number;
  stdout: Buffer;
  stderr: string;
}

/** Runs a program. @throws ImageError IMAGE_NO_TOOL when it is not installed. */
export function tryTool(
  command: string,
  args: readonly string[],
  options: ToolOptions = {},
): Promise<ToolResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      env: { ...environment(), ...options.env },
      stdio: ['pipe', 'pipe', 'pipe', options.onStatus ? 'pipe' : 'ignore'],
    });
    const out: Buffer[] = [];
    let stderr = '';
    let consumer: Promise<unknown> = Promise.resolve();
    if (options.onOutput) consumer = options.onOutput(child.stdout as Readable);
    else child.stdout!.on('data', (b: Buffer) => out.push(b));
    consumer.catch(() => child.kill());
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      stderr = (stderr + text).slice(-4096);
    });
    if (options.onStatus) {
      let held = '';
      (child.stdio[3] as Readable).setEncoding('utf8').on('data', (text: string) => {
        const lines = (held + text).split('\n');
        held = lines.pop() ?? '';
        for (const line of lines) options.onStatus?.(line);
      });
    }
    // A program that ends early closes its input.
    child.stdin!.on('error', () => {});
    child.stdin!.end(options.input);
    child.on('error', (error: NodeJS.ErrnoException) => {
      reject(
        error.code === 'ENOENT'
          ? new ImageError(
              'IMAGE_NO_TOOL',
              `the program ${command}`,
              'nothing of that name in PATH',
              options.install ?? 'Install it.',
            )
          : error,
      );
    });
    child.on('close', (code, signal) => {
      consumer.then(
        () =>
          resolve({ status: code ?? (signal ? 128 : 1), stdout: Buffer.concat(out), stderr: stderr.trim() }),
        reject,
      );
    });
  });
}

/** Runs a program that must succeed. @throws ImageError IMAGE_TOOL_FAILED with its last words. */
export async function tool(
  command: string,
  args: readonly string[],
  options: ToolOptions = {},
): Promise<Buffer> {
  const result = await tryTool(command, args, options);
  if (result.status !== 0)
    throw new ImageError(
      'IMAGE_TOOL_FAILED',
      `\`${command} ${args.join(' ')}\` to succeed`,
      `status ${result.status}: ${result.stderr.split('\n').slice(-3).join(' | ') || 'no message'}`,
      'Its message says what is wrong; `nyx image rm` and a new build start from nothing.',
    );
  return result.stdout;
}
