/**
 * What Nyx is for, in half a minute: a Linux guest writes to its disk while the processes of its disk and of its platform
 * chips are killed. It must not notice: the data is whole, the kernel has no error to tell.
 */
import { Vm } from '@nyx/nyx';
import { NyxError } from '@nyx/protocol/errors';
import { Command } from 'commander';
import { attach } from './attach.ts';
import { type Killed, killAndWait } from './kill.ts';
import { bold, box, columns, dim, duration, green, note, print, progress, red, short } from './text.ts';

const megabytes = 4;
const rounds = 6;

/** Runs in the guest. Each line of its output is a step that the host waits for. */
const script = `
set -e
dd if=/dev/urandom of=/tmp/blob bs=64k count=${megabytes * 16} 2>/dev/null
want=$(sha256sum </tmp/blob)
echo "made $want"
for round in ${Array.from({ length: rounds }, (_, i) => i + 1).join(' ')}; do
  dd if=/tmp/blob of=/data/nyx-demo bs=32k conv=fsync 2>/dev/null
  echo "round $round"
done
rm /tmp/blob
sync
echo 3 >/proc/sys/vm/drop_caches
got=$(sha256sum </data/nyx-demo)
echo "read $got"
df /data | tail -n 1 | { read -r device rest; echo "device $device"; }
dmesg | grep -iE 'i/o error|ext4-fs error|blk_update_request|buffer i/o|timed? ?out|nobody cared|hung task|BUG:' | sed 's/^/complaint /' || true
[ "$want" = "$got" ]
`;

interface Outcome {
  kills: Killed[];
  lines: string[];
  status: number;
  seconds: number;
}

/** Runs the script; kills each target when its line of output is seen. */
const workUnderFire = async (vm: Vm, targets: Record<string, string>): Promise<Outcome> => {
  const lines: string[] = [];
  const kills: Promise<Killed>[] = [];
  const from = performance.now();
  let text = '';
  const { status, stderr } = await vm.exec(script, {
    timeout: 240,
    onStdout: (b) => {
      text += b.toString();
      for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n')) {
        const line = text.slice(0, at);
        text = text.slice(at + 1);
        lines.push(line);
        const target = targets[line];
        if (target) {
          note(`  kill -9 ${target}`);
          const k = killAndWait(vm, target);
          k.catch(() => {});
          kills.push(k);
        }
      }
    },
  });
  if (stderr.length) note(stderr.toString());
  return { kills: await Promise.all(kills), lines, status, seconds: (performance.now() - from) / 1000 };
};

const demo = async (o: { accel?: 'auto' | 'kvm' | 'soft'; memory: string }): Promise<void> => {
  let from = performance.now();
  const since = (): string => duration((performance.now() - from) * 1e6);
  note(bold('A Debian guest, each device in a process of its own'));
  const vm = await Vm.launch(
    { image: 'debian', memory: o.memory, ...(o.accel ? { accel: o.accel } : {}) },
    {
      onProgress: (m, f) => {
        progress(`  ${m}`, f);
        // Only an image that is made has progress; it is no part of the start.
        from = performance.now();
      },
    },
  );
  const { running, ended } = vm.launched!;
  const failed = new Promise<never>((_, reject) => ended.catch(reject));
  failed.catch(() => {});
  try {
    await running;
    const launched = since();
    note(`  '${vm.name}' runs after ${launched}; the kernel boots ...`);
    const uname = (await Promise.race([vm.exec('uname -r', { timeout: 240 }), failed])).stdout
      .toString()
      .trim();
    const booted = since();
    note(
      `  Linux ${uname} answers after ${booted}; it writes ${rounds} x ${megabytes} MiB to its ext4 disk ...`,
    );
    const work = await Promise.race([
      workUnderFire(vm, { 'round 1': 'disk0', 'round 3': 'platform' }),
      failed,
    ]);
    const status = await vm.status();

    const find = (word: string): string =>
      work.lines.find((l) => l.startsWith(`${word} `))?.slice(word.length + 1) ?? '';
    const complaints = work.lines.filter((l) => l.startsWith('complaint '));
    const same = find('made') !== '' && find('made') === find('read');
    const onDisk = find('device').startsWith('/dev/vda');
    const ok = work.status === 0 && same && onDisk && complaints.length === 0 && work.kills.length === 2;
    const mark = (good: boolean, text: string): string => (good ? green(text) : red(text));
    const instructions = status.vcpus.reduce((n, v) => n + v.instructions, 0);
    const seconds = status.guestNs / 1e9;
    print(
      box('Nyx', [
        ...columns([
          [
            dim('engine'),
            `${status.accel}, ${status.cpus} vCPU, ${instructions ? `${short(instructions)} instructions, ${short(instructions / seconds)}/s` : ''}`,
          ],
          [dim('first instruction'), launched],
          [dim('shell'), booted],
          ...work.kills.map((k) => [
            dim(`kill -9 ${k.process}`),
            `successor serves after ${bold(duration(k.recovery.ns))} (its own share ${duration(k.recovery.attachNs)})`,
          ]),
          [dim('longest wait of a vCPU'), duration(Math.max(...status.vcpus.map((v) => v.maxWaitNs)))],
          [
            dim('disk'),
            mark(
              onDisk,
              `${find('device') || 'not there'}, ${rounds * megabytes} MiB written in ${work.seconds.toFixed(1)} s`,
            ),
          ],
          [
            dim('SHA-256'),
            mark(
              same,
              same
                ? `same: ${find('read').slice(0, 16)}...`
                : `written ${find('made').slice(0, 12)}, read ${find('read').slice(0, 12)}`,
            ),
          ],
          [
            dim('kernel log'),
            mark(
              complaints.length === 0,
              complaints.length === 0 ? 'no complaint' : `${complaints.length} complaints`,
            ),
          ],
        ]).split('\n'),
      ]),
    );
    for (const c of complaints) print(red(c));
    if (!ok)
      throw new NyxError('GUEST_FAILED', {
        expected: 'two kills and data that is whole',
        got: `status ${work.status}, ${work.kills.length} kills, checksum ${same ? 'right' : 'wrong'}, ${complaints.length} complaints`,
      });
    if (process.stdin.isTTY) {
      note(`The guest's shell. Ctrl-] leaves it and powers the machine off.`);
      await attach(vm);
    }
    await vm.stop(20).catch(() => {});
    await ended;
    note(`  powered off after ${since()}`);
  } catch (e) {
    await vm.stop(0).catch(() => {});
    throw e;
  }
};

export const make = (): Command =>
  new Command('demo')
    .description(
      'Boots Debian, kills the processes of its disk and of its platform while it writes, checks the data.',
    )
    .option('--accel <engine>', 'auto, kvm or soft')
    .option('--memory <size>', 'memory of the guest', '256M')
    .addHelpText(
      'after',
      '\nExamples:\n  nyx demo\n  nyx demo --accel soft < /dev/null      without the shell at the end',
    )
    .action(demo);
