// Named steps with their time, for every tool: a person sees what happens and how long it took.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));
const tty = process.stderr.isTTY;
const dim = (s) => (tty ? `\x1b[2m${s}\x1b[22m` : s);
const green = (s) => (tty ? `\x1b[32m${s}\x1b[39m` : s);
const red = (s) => (tty ? `\x1b[31m${s}\x1b[39m` : s);

/** An error whose message is for the user; tools print it without a stack. */
export class UserError extends Error {}

/** Seconds with one decimal, from milliseconds. */
const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;

/**
 * Runs `work` as the step `name`. A step that returns 'up to date' is reported so.
 * @param {string} name
 * @param {() => Promise<string | void>} work
 */
export async function step(name, work) {
  const from = performance.now();
  if (tty) process.stderr.write(`  ... ${name}\r`);
  try {
    const note = await work();
    process.stderr.write(
      `${green('  ok ')} ${name} ${dim(`${note ? `${note}, ` : ''}${seconds(performance.now() - from)}`)}\n`,
    );
  } catch (error) {
    process.stderr.write(`${red('  no ')} ${name} ${dim(seconds(performance.now() - from))}\n`);
    throw error;
  }
}

/**
 * Runs a command to its end; its output is shown only when it fails, unless `inherit`.
 * @returns {Promise<string>} what it printed
 */
export function run(command, args, { cwd = root, env = process.env, inherit = false } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd, env, stdio: inherit ? 'inherit' : ['ignore', 'pipe', 'pipe'] });
    let output = '';
    child.stdout?.on('data', (d) => {
      output += d;
    });
    child.stderr?.on('data', (d) => {
      output += d;
    });
    child.on('error', (error) => reject(new UserError(`${command}: ${error.message}`)));
    child.on('close', (code, signal) => {
      if (code === 0) resolve(output);
      else {
        const error = new UserError(`${command} ${args.join(' ')} ended with ${signal ?? code}\n${output}`);
        error.exitCode = code ?? 1;
        reject(error);
      }
    });
  });
}

/** Entry point of a tool: prints user errors plainly and sets the exit status. */
export async function main(work) {
  try {
    await work();
  } catch (error) {
    process.stderr.write(`${error instanceof UserError ? error.message : error.stack}\n`);
    process.exitCode = error.exitCode || 1;
  }
}
