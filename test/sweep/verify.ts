/**
 * A guest that checks its disk itself while the process behind it is killed again and again: blocks of known content are
 * written with fsync, the page cache is dropped, and what was written is read back and compared, this round's and an
 * older one's. Kills come at intervals drawn from a seed, whether or not a standby is ready.
 */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ImageStore } from '@nyx/image';
import { Vm } from '@nyx/nyx';

export interface Verified {
  kills: number;
  /** Rounds of the guest, and of those what was not as written. */
  rounds: number;
  wrong: number;
  /** Lines of its kernel log that complain. */
  complaints: string[];
  /** Nanoseconds from when the supervisor heard of a death to its successor, and those where a standby took over. */
  recoveries: number[];
  standbys: number;
  /** Longest wait of a vCPU for an answer, nanoseconds. */
  longestWait: number;
}

/** Round n: 256 KiB that only n gives, to place n mod 24; the place written last in the order before is looked at too. */
const guest = `
data() { seq $(($1 * 1009)) $(($1 * 1009 + 60000)) | head -c 262144; }
n=0; wrong=0
while [ ! -e /tmp/stop ]; do
  data $n | dd of=/dev/vda bs=32k seek=$((n % 24 * 8)) iflag=fullblock conv=fsync,notrunc 2>/dev/null || wrong=$((wrong + 1))
  echo 3 >/proc/sys/vm/drop_caches
  for r in $n $((n > 12 ? n - 12 : n)); do
    data $r >/tmp/want
    dd if=/dev/vda bs=32k skip=$((r % 24 * 8)) count=8 2>/dev/null | cmp -s - /tmp/want || wrong=$((wrong + 1))
  done
  n=$((n + 1))
done
echo $n $wrong >/tmp/result`;

export const verify = async (
  kills: number,
  seed: number,
  tell: (line: string) => void,
): Promise<Verified> => {
  const image = await new ImageStore().build('debian');
  const folder = mkdtempSync(join(tmpdir(), 'nyx-verify-'));
  const disk = join(folder, 'disk.img');
  writeFileSync(disk, '');
  truncateSync(disk, 8 << 20);
  const vm = await Vm.start({
    name: `verify-${process.pid}`,
    kernel: image.vmlinux,
    initrd: image.initrd,
    append: image.cmdline,
    agent: true,
    memory: '128M',
    accel: 'soft',
    disks: [disk],
    recovery: {
      budget: 10_000,
      window: 1,
      backoff: 0.001,
      maxBackoff: 0.001,
      hangTimeout: 20,
      startTimeout: 30,
    },
  });
  try {
    await vm.exec(`(${guest}) >/dev/null 2>&1 &`, { timeout: 120 });
    const recoveries: number[] = [];
    let standbys = 0;
    let s = seed >>> 0;
    const look = async (): Promise<{ restarts: number; ns: number; standby: boolean }> => {
      const p = (await vm.status()).processes.find((x) => x.name === 'disk0')!;
      if (p.state === 'isolated') throw new Error(`disk0 is isolated: ${p.error?.got}`);
      const { ns = 0, standby = false } = p.lastRecovery ?? {};
      return { restarts: p.state === 'serving' ? p.restarts : -1, ns, standby };
    };
    for (let i = 0; i < kills; i++) {
      s = (Math.imul(s, 1_664_525) + 1_013_904_223) >>> 0;
      await sleep(100 + (s / 4_294_967_296) * 900);
      const { restarts } = await look();
      await vm.kill('disk0');
      for (let tries = 0; ; tries++) {
        await sleep(10);
        const now = await look();
        if (now.restarts > restarts) {
          recoveries.push(now.ns);
          standbys += now.standby ? 1 : 0;
          break;
        }
        if (tries > 3000) throw new Error('disk0 was not served again within 30 s');
      }
      if ((i + 1) % 50 === 0) tell(`${i + 1} kills`);
    }
    const end = await vm.exec(
      'touch /tmp/stop; while [ ! -e /tmp/result ]; do sleep 0.2; done; cat /tmp/result; dmesg | grep -iE "i/o error|timed? ?out|hung task|BUG:|WARNING:|reset" || true',
      { timeout: 120 },
    );
    const [counts = '', ...complaints] = end.stdout.toString().trim().split('\n');
    const [rounds = 0, wrong = Number.NaN] = counts.split(' ').map(Number);
    const longestWait = (await vm.metrics()).maxWaitNs;
    return { kills, rounds, wrong, complaints, recoveries, standbys, longestWait };
  } finally {
    await vm.stop(0).catch(() => {});
    vm.close();
    rmSync(folder, { recursive: true, force: true });
  }
};
