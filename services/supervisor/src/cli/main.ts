/**
 * The `nyx` command. Only the command that is asked for is loaded. Exit statuses: 0 done; 64 to 77 as in sysexits(3), by
 * the table in libs/protocol/src/errors.ts; 124 a timeout; with `run --exec`, that of the command in the guest.
 */
import { asNyxError } from '@nyx/protocol/errors';
import { Command, CommanderError } from 'commander';

interface CommandFile {
  make(): Command;
}

const commands: Record<string, [summary: string, load: () => Promise<CommandFile>]> = {
  run: ['start a machine', () => import('./run.ts')],
  ps: ['list the machines', () => import('./ps.ts')],
  status: ['what a machine and its processes do', () => import('./status.ts')],
  top: ['what a machine uses, live', () => import('./top.ts')],
  console: ['the serial console (Ctrl-] leaves)', () => import('./console.ts')],
  exec: ['run a command in the guest', () => import('./exec.ts')],
  stop: ['power a machine off', () => import('./stop.ts')],
  pause: ['stop the guest where it is', () => import('./control.ts').then((m) => m.pause)],
  resume: ['let a paused guest go on', () => import('./control.ts').then((m) => m.resume)],
  reset: ['the reset button', () => import('./control.ts').then((m) => m.reset)],
  kill: ['SIGKILL a device process; the guest does not notice', () => import('./kill.ts')],
  checkpoint: ['remember a machine as it is, in memory', () => import('./checkpoint.ts')],
  rollback: ['go back to the checkpoint', () => import('./rollback.ts')],
  upgrade: ['another build of a device, while the guest runs', () => import('./upgrade.ts')],
  fault: ['make faults on purpose', () => import('./fault.ts')],
  chaos: ['run a campaign of faults', () => import('./chaos.ts')],
  policy: ['what is done about faults', () => import('./policy.ts')],
  adopt: ['give a machine whose supervisor died another one', () => import('./adopt.ts')],
  heal: ['bring an isolated device back', () => import('./heal.ts')],
  events: ['what has happened to a machine', () => import('./events.ts')],
  report: ['what happened, when something serious happened', () => import('./report.ts')],
  logs: ['logs of a machine', () => import('./logs.ts')],
  image: ['list, build and remove guest images', () => import('./image.ts')],
  cd: ['change the medium of a CD drive', () => import('./cd.ts')],
  tpm: ['TPMs: state, PCRs, event logs; a TPM on sockets', () => import('./tpm.ts')],
  backend: ['what stands behind the disks of a machine', () => import('./backend.ts')],
  disk: ['make, check, convert and snapshot disk images', () => import('./disk.ts')],
  storage: ['serve a disk image to other programs (vhost-user)', () => import('./storage.ts')],
  demo: ['boot Debian, kill its devices, see it go on', () => import('./demo.ts')],
};

const usage = 64;

const main = async (argv: string[]): Promise<void> => {
  const program = new Command('nyx')
    .description('Virtual machines whose devices cannot take the guest down.')
    .version('0.1.0')
    .enablePositionalOptions()
    .addHelpText(
      'after',
      '\nExamples:\n  nyx run debian\n  nyx run debian --exec "uname -a"\n  nyx run --kernel vmlinuz --initrd initrd.img --append "console=ttyS0" --disk root.img\n  nyx status\n\nnyx COMMAND --help tells more, with examples.',
    );
  for (const [name, [summary, load]] of Object.entries(commands)) {
    const asked = argv[0] === name;
    const made = asked ? (await load()).make() : new Command(name);
    program.addCommand(made.summary(summary).description(made.description() || summary));
  }
  for (const c of [program, ...program.commands, ...program.commands.flatMap((x) => x.commands)])
    c.exitOverride().showHelpAfterError('(--help tells more, with examples)');
  await program.parseAsync(argv, { from: 'user' });
};

// Who reads us may stop reading: of progress nothing is lost; without a reader of the answer there is nothing left to do but what
// SIGTERM means to a command (`run` ends its machine). The status is that of a program that SIGPIPE ended.
const sigpipe = 141;
/** EX_IOERR: an answer that could not be written, to a full disk say, is not an answer. */
const outputFailed = 74;
let lost: number | undefined;
process.stderr.on('error', () => {});
process.stdout.on('error', (e: NodeJS.ErrnoException) => {
  const isFirst = lost === undefined;
  lost = e.code === 'EPIPE' ? sigpipe : outputFailed;
  if (isFirst && lost === outputFailed)
    process.stderr.write(`nyx: the output cannot be written: ${e.message}\n`);
  if (isFirst && !process.emit('SIGTERM')) process.exit(lost);
});

main(process.argv.slice(2)).then(
  () => {
    // Sockets that are still open must not keep a command that is done.
    setTimeout(() => process.exit(lost), 200).unref();
  },
  (e: unknown) => {
    if (e instanceof CommanderError) {
      const status = e.exitCode === 0 || e.code === 'commander.help' ? 0 : usage;
      // An output that failed is heard of in the next turn.
      setImmediate(() => process.exit(lost ?? status));
      return;
    }
    if (lost !== undefined) process.exit(lost);
    const error = asNyxError(e);
    process.stderr.write(`${error.pretty()}\n`);
    if (process.env.NYX_DEBUG) process.stderr.write(`${(e as Error).stack}\n`);
    process.exit(error.exit);
  },
);
