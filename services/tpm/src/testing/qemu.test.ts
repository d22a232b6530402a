/** QEMU's `-tpmdev emulator` on our control channel: a Linux guest uses the TPM; snapshots and migration take it along. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ImageStore } from '@nyx/image';
import { afterAll, afterEach, expect, test } from 'vitest';
import { TpmHost } from '../server/host.ts';
import { SwtpmServer } from '../server/swtpm.ts';
import { listenControl } from '../server/unix.ts';
import { NVA, RH } from '../spec/constants.ts';
import { commandBytes } from './client.ts';

const qemu = spawnSync('which', ['qemu-system-x86_64', 'qemu-img']).status === 0;
const image = await new ImageStore().build('debian').catch((e: Error) => {
  process.stdout.write(`there is no guest image, not tested with QEMU: ${e.message}\n`);
  return undefined;
});
const can = qemu && image !== undefined;
if (!qemu)
  process.stdout.write('qemu is not installed (apt: qemu-system-x86 qemu-utils): not tested with it\n');

const dir = mkdtempSync(join(tmpdir(), 'tpm-qemu-'));
const ends: (() => void)[] = [];
afterEach(() => {
  for (const end of ends.splice(0).reverse()) end();
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** A TPM with its control socket; QEMU hands over the data socket. */
function tpm(name: string, host = new TpmHost({})): { host: TpmHost; path: string } {
  const path = join(dir, `${name}.ctrl`);
  ends.push(listenControl(new SwtpmServer(host), path), () => rmSync(path, { force: true }));
  return { host, path };
}

/** Text that comes from somewhere, waited for piece by piece. */
class Text {
  all = '';
  private waiter: (() => void) | undefined;
  add(more: Buffer): void {
    this.all += more.toString('latin1');
    this.waiter?.();
  }
  async until(pattern: RegExp, from = 0, ms = 240_000): Promise<RegExpExecArray> {
    const deadline = Date.now() + ms;
    for (;;) {
      const found = pattern.exec(this.all.slice(from));
      if (found) return found;
      const left = deadline - Date.now();
      if (left <= 0) throw new Error(`${pattern} did not come:\n${this.all.slice(-2000)}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.waiter = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}

class Guest {
  readonly text = new Text();
  readonly monitor = new Text();
  readonly child: ChildProcess;
  private readonly monitorPath: string;
  constructor(name: string, control: string, model: string, ...more: string[]) {
    this.monitorPath = join(dir, `${name}.mon`);
    const disk = join(dir, 'vmstate.qcow2');
    if (!existsSync(disk)) spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', disk, '1G']);
    this.child = spawn(
      'qemu-system-x86_64',
      [
        ...['-M', 'q35', '-accel', 'tcg', '-m', '192', '-display', 'none', '-nodefaults', '-serial', 'stdio'],
        ...['-kernel', image!.kernel, '-initrd', image!.initrd, '-append', image!.cmdline],
        ...['-chardev', `socket,id=ctrl,path=${control}`, '-tpmdev', 'emulator,id=tpm0,chardev=ctrl'],
        ...['-device', `${model},tpmdev=tpm0`, '-monitor', `unix:${this.monitorPath},server=on,wait=off`],
        ...['-drive', `if=none,id=vmstate,file=${disk},format=qcow2`, ...more],
      ],
      { stdio: ['pipe', 'pipe', 'pipe'] },
    );
    this.child.stdout!.on('data', (b: Buffer) => this.text.add(b));
    this.child.stderr!.on('data', (b: Buffer) => this.text.add(b));
    this.child.stdin!.on('error', () => {});
    ends.push(() => this.child.kill('SIGKILL'));
  }
  booted(): Promise<unknown> {
    return this.text.until(/root@nyx:[^#]*# /);
  }
  /** What a command of the shell prints. */
  async run(command: string): Promise<string> {
    const from = this.text.all.length;
    this.child.stdin!.write(`echo '<'; ${command}; echo '>'\n`);
    const found = await this.text.until(/\n<\r?\n([\s\S]*?)>\r?\n/, from);
    return found[1]!.replaceAll('\r', '').trim();
  }
  /** Raw octets to and from /dev/tpm0, in hexadecimal. */
  async tpm(bytes: Buffer): Promise<Buffer> {
    const octal = [...bytes].map((b) => `\\${b.toString(8).padStart(3, '0')}`).join('');
    const read = 'dd bs=4096 count=1 <&3 2>/dev/null | hexdump -v -e \'1/1 "%02x"\'';
    return Buffer.from(
      await this.run(`exec 3<>/dev/tpm0; printf '${octal}' >&3; ${read}; exec 3<&-; echo`),
      'hex',
    );
  }
  /** One command of QEMU's monitor. */
  hmp(command: string): Promise<string> {
    return new Promise((resolve, reject) => {
      let text = '';
      const s = connect(this.monitorPath, () => s.write(`${command}\n`));
      s.on('data', (b: Buffer) => {
        text += b.toString('latin1');
        if (text.split('(qemu) ').length > 2) s.destroy();
      });
      s.on('close', () => resolve(text));
      s.on('error', reject);
    });
  }
  pcr16(): Promise<string> {
    return this.run('cat /sys/class/tpm/tpm0/pcr-sha256/16');
  }
}

const extend = (octet: number) =>
  commandBytes('PCR_Extend', { pcrHandle: 16, digests: [{ hashAlg: 0xb, digest: Buffer.alloc(32, octet) }] });
const ok = (response: Buffer) => expect(response.readUInt32BE(6)).toBe(0);
const nvIndex = 0x01500007;
const define = commandBytes('NV_DefineSpace', {
  authHandle: RH.OWNER,
  auth: Buffer.alloc(0),
  publicInfo: {
    nvIndex,
    nameAlg: 0xb,
    attributes: NVA.OWNERREAD | NVA.OWNERWRITE,
    authPolicy: Buffer.alloc(0),
    dataSize: 4,
  },
});

test.skipIf(!can).each(['tpm-tis', 'tpm-crb'])(
  'a Linux guest has a TPM by %s; snapshot and migration take its state along',
  async (model) => {
    const first = tpm(`${model}-1`);
    const guest = new Guest(`${model}-1`, first.path, model);
    await guest.booted();
    expect(await guest.run('cat /sys/class/tpm/tpm0/tpm_version_major')).toBe('2');
    const random = await guest.tpm(commandBytes('GetRandom', { bytesRequested: 16 }));
    expect(random.length).toBe(10 + 2 + 16);
    ok(random);
    ok(await guest.tpm(define));
    ok(await guest.tpm(extend(1)));
    const one = await guest.pcr16();
    expect(one).toMatch(/^[0-9A-F]{64}$/);
    expect(first.host.tpm!.pcrs.get(0xb, 16)!.toString('hex').toUpperCase()).toBe(one);

    // A snapshot, and back to it.
    expect(await guest.hmp('savevm here')).not.toMatch(/Error/);
    ok(await guest.tpm(extend(2)));
    expect(await guest.pcr16()).not.toBe(one);
    expect(await guest.hmp('loadvm here')).not.toMatch(/Error/);
    expect(await guest.pcr16()).toBe(one);
    expect(first.host.tpm!.pcrs.get(0xb, 16)!.toString('hex').toUpperCase()).toBe(one);

    // To a file, and on from there with another TPM that has nothing yet.
    const file = join(dir, `${model}.migration`);
    await guest.hmp(`migrate "exec:cat > ${file}"`);
    for (let i = 0; !/completed/.test(await guest.hmp('info migrate')); i++) {
      if (i > 1200) throw new Error(await guest.hmp('info migrate'));
      await sleep(100);
    }
    await guest.hmp('quit');
    const second = tpm(`${model}-2`);
    const moved = new Guest(`${model}-2`, second.path, model, '-incoming', `exec:cat ${file}`);
    await sleep(500);
    for (let i = 0; !/running/.test(await moved.hmp('info status').catch(() => '')); i++) {
      if (i > 1200) throw new Error(moved.text.all);
      await sleep(100);
    }
    expect(await moved.pcr16()).toBe(one);
    ok(await moved.tpm(commandBytes('NV_ReadPublic', { nvIndex })));
    ok(await moved.tpm(extend(3)));
    await moved.hmp('quit');
  },
  600_000,
);
