import { spawn } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { agentScript, ExecParser, execRequest, execWire } from './exec.ts';

const nonce = '0123456789abcdef';
const collect = () => {
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  let status: number | undefined;
  const parser = new ExecParser(nonce, {
    stdout: (b) => out.push(Buffer.from(b)),
    stderr: (b) => err.push(Buffer.from(b)),
    end: (s) => {
      status = s;
    },
  });
  return { parser, result: () => ({ out: Buffer.concat(out), err: Buffer.concat(err), status }) };
};
const frame = (out: Buffer, err: Buffer, status: number): Buffer =>
  Buffer.concat([
    Buffer.from(`noise\x1eNYX-READY\n\x1eNYX-BEGIN ${nonce}\n`),
    out,
    Buffer.from(`\x1eNYX-STDERR ${nonce}\n`),
    err,
    Buffer.from(`\x1eNYX-END ${nonce} ${status}\n`),
  ]);

describe('ExecParser', () => {
  test('any bytes, cut anywhere, come out as they went in', () => {
    // Bytes that are often a separator or a part of a mark.
    const piece = fc.oneof(
      fc.uint8Array({ maxLength: 20 }),
      fc
        .constantFrom(
          '\x1e',
          '\x1eNYX-',
          '\x1eNYX-END ',
          '\x1eNYX-END 1 1\n',
          `\x1eNYX-BEGIN ${nonce}\n`,
          '\x1eNYX-STDERR x\n',
        )
        .map((s) => Buffer.from(s)),
    );
    const bytes = fc.array(piece, { maxLength: 6 }).map((p) => Buffer.concat(p));
    fc.assert(
      fc.property(
        bytes,
        bytes,
        fc.integer({ min: 0, max: 255 }),
        fc.infiniteStream(fc.integer({ min: 1, max: 9 })),
        (out, err, status, cuts) => {
          const c = collect();
          const all = frame(out, err, status);
          for (let at = 0; at < all.length; ) {
            const n = cuts.next().value as number;
            c.parser.feed(all.subarray(at, at + n));
            at += n;
          }
          expect(c.result()).toEqual({ out, err, status });
        },
      ),
    );
  });

  test('a mark with another nonce is output', () => {
    const c = collect();
    const fake = Buffer.from('\x1eNYX-STDERR ffffffffffffffff\n\x1eNYX-END ffffffffffffffff 0\n');
    c.parser.feed(frame(fake, Buffer.alloc(0), 3));
    expect(c.result()).toEqual({ out: fake, err: Buffer.alloc(0), status: 3 });
  });
});

/** Runs the guest's side under this host's shell, on a terminal made by `script`. */
describe('agentScript', () => {
  const dir = mkdtempSync(join(tmpdir(), 'nyx-agent-'));
  const file = join(dir, 'agent');
  writeFileSync(file, agentScript);

  const run = (command: string): Promise<{ out: Buffer; err: Buffer; status: number | undefined }> =>
    new Promise((resolve, reject) => {
      const child = spawn('script', ['-qec', `sh ${file} /dev/tty ${dir}`, '/dev/null'], {
        stdio: ['pipe', 'pipe', 'inherit'],
      });
      const c = collect();
      let seen = Buffer.alloc(0);
      let asked = false;
      child.on('error', reject);
      child.stdout.on('data', (b: Buffer) => {
        seen = Buffer.concat([seen, b]);
        if (!asked && seen.includes(execWire.ready)) {
          asked = true;
          child.stdin.write(execRequest(nonce, command));
        }
        c.parser.feed(b);
        if (c.parser.done) {
          child.kill();
          resolve(c.result());
        }
      });
    });

  test('stdout, stderr and status of a real shell', async () => {
    const r = await run('printf "a\\nb"; echo oops >&2; exit 7');
    expect(r).toEqual({ out: Buffer.from('a\nb'), err: Buffer.from('oops\n'), status: 7 });
  });

  test('binary output is not changed by the terminal', async () => {
    const r = await run("printf '\\000\\001\\r\\n\\036NYX\\377'");
    expect(r.out).toEqual(Buffer.from('\0\x01\r\n\x1eNYX\xff', 'latin1'));
    expect(r.status).toBe(0);
  });

  test('quotes and several lines', async () => {
    const r = await run('for i in 1 2 3; do\n  echo "it\'s $i"\ndone');
    expect(r.out.toString()).toBe("it's 1\nit's 2\nit's 3\n");
  });
});
