/**
 * How the host runs a command in the guest: both sides of the protocol in one file. The channel is the second serial
 * port (COM2, ttyS1), so that nothing that the kernel or a login prints can mix with it.
 *
 * When the kernel command line holds `nyx.agent=1`, the guest's init runs `agentScript` in the background (libs/image puts it in
 * the initramfs as /bin/nyx-agent and starts it; a guest of one's own can do the same). All guest to host marks begin
 * with the byte 0x1e (record separator) and end with a newline:
 *
 *   guest: RS NYX-READY\n                             the agent listens (again after each reset)
 *   host:  NYX-RUN <nonce> <base64 of the command>\n
 *   guest: RS NYX-BEGIN <nonce>\n  stdout, raw and at once
 *          RS NYX-STDERR <nonce>\n stderr, after the command has ended
 *          RS NYX-END <nonce> <status>\n
 *
 * With `nyx.exec=<base64>` on its command line the guest runs that command when it has booted, tells of it as if it had been
 * asked to (execWire.firstNonce), and powers off: a run of the machine into which nothing comes from outside.
 *
 * One command at a time. The nonce (16 hex digits, new for each command) keeps output that looks like a mark from being taken
 * for one. The line is raw (no echo, no newline translation): bytes arrive as the command wrote them.
 */

export const execWire = {
  /** Kernel parameter that asks for the agent. */
  parameter: 'nyx.agent=1',
  /** Longest command, bytes: a tty keeps 64 KiB at most for a reader that is late. */
  maxCommand: 16 * 1024,
  ready: '\x1eNYX-READY\n',
  /** Kernel parameter with a first command. */
  first: (command: string): string => `nyx.exec=${Buffer.from(command).toString('base64')}`,
  firstNonce: '0000000000000000',
} as const;

/** The guest's side: POSIX shell, needs stty, base64, cat (busybox has them). Endless; start it with `&`. */
export const agentScript = `#!/bin/sh
# Runs commands that arrive on the second serial port; see libs/protocol/src/exec.ts.
tty=\${1:-/dev/ttyS1}
dir=\${2:-/run}
exec <"$tty" >"$tty"
stty raw -echo
printf '\\036NYX-READY\\n'
run() {
  printf '\\036NYX-BEGIN %s\\n' "$1"
  printf %s "$2" | base64 -d >"$dir/nyx-command"
  sh "$dir/nyx-command" </dev/null 2>"$dir/nyx-stderr"
  status=$?
  printf '\\036NYX-STDERR %s\\n' "$1"
  cat "$dir/nyx-stderr"
  printf '\\036NYX-END %s %d\\n' "$1" "$status"
}
read -r cmdline </proc/cmdline
for word in $cmdline; do
  case $word in
    nyx.exec=*) run 0000000000000000 "\${word#nyx.exec=}"; nyx-poweroff || poweroff ;;
  esac
done
while read -r tag nonce command; do
  [ "$tag" = NYX-RUN ] && run "$nonce" "$command"
done
`;

/** The line that asks the agent to run `command`. */
export const execRequest = (nonce: string, command: string): Buffer =>
  Buffer.from(`NYX-RUN ${nonce} ${Buffer.from(command).toString('base64')}\n`);

export interface ExecSink {
  stdout(bytes: Buffer): void;
  stderr(bytes: Buffer): void;
  /** Exit status 0..255; 128 + n after signal n. */
  end(status: number): void;
}

const RS = 0x1e;
const longestMark = 64;

/** Takes the guest's byte stream apart for one command. Bytes before its BEGIN mark are dropped. */
export class ExecParser {
  #held: Buffer = Buffer.alloc(0);
  #phase: 'before' | 'stdout' | 'stderr' | 'done' = 'before';
  readonly #marks: Record<'before' | 'stdout', string>;
  readonly #end: RegExp;

  constructor(
    readonly nonce: string,
    readonly sink: ExecSink,
  ) {
    this.#marks = { before: `\x1eNYX-BEGIN ${nonce}\n`, stdout: `\x1eNYX-STDERR ${nonce}\n` };
    this.#end = new RegExp(`^\\x1eNYX-END ${nonce} (\\d{1,3})\\n`);
  }

  /** One that goes on from here, for somebody else. */
  fork(sink: ExecSink): ExecParser {
    const p = new ExecParser(this.nonce, sink);
    p.#held = Buffer.from(this.#held);
    p.#phase = this.#phase;
    return p;
  }

  get done(): boolean {
    return this.#phase === 'done';
  }

  feed(bytes: Buffer): void {
    let data = this.#held.length ? Buffer.concat([this.#held, bytes]) : bytes;
    this.#held = Buffer.alloc(0);
    while (data.length > 0 && this.#phase !== 'done') {
      const at = data.indexOf(RS);
      if (at < 0) {
        this.#emit(data);
        return;
      }
      this.#emit(data.subarray(0, at));
      data = data.subarray(at);
      const taken = this.#mark(data);
      if (taken < 0) {
        this.#held = Buffer.from(data);
        return;
      }
      // Not a mark after all: the separator is the command's own byte.
      if (taken === 0) {
        this.#emit(data.subarray(0, 1));
        data = data.subarray(1);
      } else data = data.subarray(taken);
    }
  }

  /** Bytes of the mark at the start of `data`; 0: it is none; -1: more bytes are needed to tell. */
  #mark(data: Buffer): number {
    const head = data.toString('latin1', 0, longestMark);
    if (this.#phase === 'stderr') {
      const found = this.#end.exec(head);
      if (found) {
        this.#phase = 'done';
        this.sink.end(Number(found[1]) & 255);
        return found[0].length;
      }
      return head.length < longestMark && !head.includes('\n') && this.#couldBe('\x1eNYX-END ', head)
        ? -1
        : 0;
    }
    const mark = this.#marks[this.#phase as 'before' | 'stdout'];
    if (head.startsWith(mark)) {
      this.#phase = this.#phase === 'before' ? 'stdout' : 'stderr';
      return mark.length;
    }
    return mark.startsWith(head) ? -1 : 0;
  }

  #couldBe(mark: string, head: string): boolean {
    return head.startsWith(mark) || mark.startsWith(head);
  }

  #emit(bytes: Buffer): void {
    if (bytes.length === 0) return;
    if (this.#phase === 'stdout') this.sink.stdout(bytes);
    else if (this.#phase === 'stderr') this.sink.stderr(bytes);
  }
}
