/**
 * The tool behind `nyx disk`: one request as JSON in the argument, JSON lines out: `{"progress": 0..1}`, then
 * `{"result": ...}` or `{"error": {"code", "message"}}`.
 */
import { chain, checkImage, create, info, resize, settled, snapshot } from './commands.ts';
import { convert } from './convert.ts';
import { copy } from './copy.ts';

const say = (line: unknown, then?: () => void): void =>
  void process.stdout.write(`${JSON.stringify(line)}\n`, then);
/** The last word. Whatever is still open - a disk, a connection - must not keep us, nor an image locked. */
const end = (line: unknown): void => say(line, () => process.exit());

let told = 0;
const progress = (fraction: number): void => {
  if (fraction < 1 && Date.now() - told < 100) return;
  told = Date.now();
  say({ progress: fraction });
};

const main = async (): Promise<void> => {
  try {
    const { command, ...options } = JSON.parse(process.argv[2] ?? '{}');
    const commands: Record<string, (o: never, p: typeof progress) => unknown> = {
      create,
      chain,
      copy,
      settled,
      info,
      check: checkImage,
      snapshot,
      resize,
      convert,
    };
    const run = commands[command as string];
    if (!run) throw Object.assign(new Error(`no command '${command}'`), { code: 'DISK_COMMAND' });
    end({ result: await run(options as never, progress) });
  } catch (e) {
    const { code = 'INTERNAL', message } = e as { code?: string; message: string };
    process.exitCode = 1;
    end({ error: { code, message } });
  }
};

void main();
