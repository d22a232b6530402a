/**
 * The tool behind `nyx tpm`: one request as JSON in the argument, one line of JSON out: `{"result": ...}` or
 * `{"error": {"code", "message"}}`.
 */
import { clear, info, init, pcrs, reset } from './commands.ts';

const say = (line: unknown): void => void process.stdout.write(`${JSON.stringify(line)}\n`);

try {
  const { command, ...options } = JSON.parse(process.argv[2] ?? '{}');
  const commands: Record<string, (o: never) => unknown> = { info, pcrs, init, reset, clear };
  const run = commands[command as string];
  if (!run) throw Object.assign(new Error(`no command '${command}'`), { code: 'TPM_COMMAND' });
  say({ result: run(options as never) });
} catch (e) {
  const { code = 'INTERNAL', message } = e as { code?: string; message: string };
  say({ error: { code, message } });
  process.exitCode = 1;
}
