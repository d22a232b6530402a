import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const docs = [
  'README.md',
  'ARCHITECTURE.md',
  'CONTRIBUTING.md',
  ...readdirSync(join(root, 'docs')).map((n) => `docs/${n}`),
].filter((n) => n.endsWith('.md'));

interface Fence {
  file: string;
  info: string;
  text: string;
}
const fences: Fence[] = docs.flatMap((file) =>
  [...readFileSync(join(root, file), 'utf8').matchAll(/^```([^\n]*)\n([\s\S]*?)^```$/gm)].map((m) => ({
    file,
    info: m[1]!.trim(),
    text: m[2]!,
  })),
);

/**
 * Commands of the documentation: run here, or why not. A command that is not in this list fails the test.
 * An array is run from the root; its output must match the pattern.
 */
const commands: Record<string, [string[], RegExp] | string> = {
  'npm start': '.ci/run runs it',
  'npm test': '.ci/run runs it',
  'npm run build': 'every tool runs it first',
  'npm run check -- --fix': 'would change the tree; npm test runs it without --fix',
  'npm run sweep': 'takes hours; test/sweep/sweep.test.ts runs a sample',
  'npm run sweep -- --guest seabios --minutes 7 --results sweep.jsonl':
    'a sample is test/sweep/sweep.test.ts',
  'npm run sweep -- --results sweep.jsonl --summary': 'a sample is test/sweep/sweep.test.ts',
  'bin/nyx fault add io error device=disk0 type=write count=1':
    'test/fault-injection.test.ts runs such commands',
  'bin/nyx fault add process kill device=platform every=1000':
    'test/fault-injection.test.ts runs such commands',
  'bin/nyx fault ls': 'test/fault-injection.test.ts runs it',
  'bin/nyx fault rm all': 'test/fault-injection.test.ts runs it',
  'bin/nyx chaos plan.yaml --seeds 1..20 --json report.json --junit report.xml':
    'test/fault-injection.test.ts runs that plan',
  'npm run bench': 'takes minutes; measures, proves nothing',
  'npm test libs/device/template': 'npm test runs these tests',
  'cp -r libs/device/template services/doorbell-copy': 'would add a folder to the tree',
  "bin/nyx run debian --exec 'uname -a'": [
    ['bin/nyx', 'run', 'debian', '--exec', 'uname -a'],
    /^Linux nyx .* x86_64/,
  ],
  'bin/nyx run --help': [['bin/nyx', 'run', '--help'], /--exec <command>/],
  "bin/nyx run debian --tpm --exec 'cat /sys/class/tpm/tpm0/tpm_version_major'": [
    ['bin/nyx', 'run', 'debian', '--tpm', '--exec', 'cat /sys/class/tpm/tpm0/tpm_version_major'],
    /^2$/m,
  ],
  'bin/nyx storage serve --socket /tmp/disk.sock root.img': 'test/vhost-user/disk.test.ts does that',
  'bin/nyx storage resize /tmp/disk.sock +10G': 'test/vhost-user/disk.test.ts does that',
  'bin/nyx run debian --vhost-user blk,socket=/tmp/disk.sock': 'test/vhost-user/disk.test.ts does that',
  'bin/nyx run debian --disk data.vhdx,format=vhdx,werror=stop,throttle.iops-total=500':
    'services/supervisor/src/cli/disk-option.test.ts reads such options',
  'bin/nyx run debian --disk nbd://127.0.0.1/backup:ro --disk memory://,size=1G':
    'needs a server; services/supervisor/src/disks.test.ts has one',
  'bin/nyx disk create -f qcow2 base.qcow2 20G': 'services/storage/src/tool/tool.test.ts does that',
  'bin/nyx disk create -f qcow2 -b base.qcow2 -F qcow2 work.qcow2':
    'services/storage/src/tool/tool.test.ts does that',
  'bin/nyx disk create -f vhdx -o block_size=2M,subformat=dynamic data.vhdx 20G':
    'services/storage/src/tool/tool.test.ts does that',
  'bin/nyx disk info work.qcow2': 'services/storage/src/tool/tool.test.ts does that',
  'bin/nyx disk check -r all work.qcow2': 'services/storage/src/tool/tool.test.ts does that',
  'bin/nyx disk convert -O vhdx work.qcow2 work.vhdx': 'services/storage/src/tool/tool.test.ts does that',
  'bin/nyx disk convert -c -O qcow2 work.qcow2 small.qcow2':
    'services/storage/src/tool/convert.test.ts does that',
  'bin/nyx disk snapshot -c before-upgrade work.qcow2': 'services/storage/src/tool/tool.test.ts does that',
  'bin/nyx disk resize work.qcow2 +10G': 'services/storage/src/tool/tool.test.ts does that',
  'bin/nyx adopt': 'services/supervisor/src/adoption.test.ts runs it',
  'bin/nyx backend ls': 'services/supervisor/src/disks.test.ts does that',
  'bin/nyx backend swap disk0': 'services/supervisor/src/disks.test.ts does that',
  'bin/nyx disk snapshot disk0 --overlay night.qcow2': 'services/supervisor/src/disks.test.ts does that',
  'bin/nyx disk snapshot disk0 -c before-upgrade': 'services/supervisor/src/disks.test.ts does that',
  'bin/nyx disk commit disk0': 'services/supervisor/src/disks.test.ts does that',
  'bin/nyx disk mirror disk0 /fast/root.qcow2 -O qcow2': 'services/supervisor/src/disks.test.ts does that',
  'bin/nyx disk resize disk0 +10G': 'services/supervisor/src/disks.test.ts does that',
  'bin/nyx tpm --help': [['bin/nyx', 'tpm', '--help'], /serve/],
  ...Object.fromEntries(
    [
      'bin/nyx run debian --tpm model=tis,state=my-tpm',
      'bin/nyx run debian --tpm backend=swtpm:/tmp/swtpm.sock',
      'swtpm socket --tpm2 --tpmstate dir=/tmp/swtpm --ctrl type=unixio,path=/tmp/swtpm.sock --daemon',
      'bin/nyx tpm pcrs debian',
      'bin/nyx tpm log debian',
      'bin/nyx tpm info debian',
      'bin/nyx tpm init my-tpm',
      'bin/nyx tpm clear my-tpm',
      'bin/nyx tpm reset my-tpm --yes',
    ].map((c) => [c, 'services/supervisor/src/tpm.test.ts does that']),
  ),
  'bin/nyx tpm init my-tpm --ca my-ca': 'services/tpm/src/manufacture/manufacture.test.ts does that',
  'bin/nyx tpm serve --swtpm 2321 --startup-clear --not-need-init':
    'services/tpm/src/testing/tools.test.ts runs tpm2-tools on such sockets',
  'bin/nyx tpm serve --ctrl /run/user/1000/tpm.sock --state my-tpm':
    'services/tpm/src/testing/qemu.test.ts runs QEMU on such a socket',
  'bin/nyx run debian --action panic=pause,reboot=shutdown': 'test/recovery/guest.test.ts starts machines so',
  ...Object.fromEntries(
    [
      'bin/nyx policy get',
      'bin/nyx policy set guestPanic pause',
      'bin/nyx policy set deviceCrash restart budget=3 window=60 escalate=pause --device disk0',
      'bin/nyx policy reset',
      'bin/nyx events --faults',
      'bin/nyx report',
      'bin/nyx heal disk0',
      'bin/nyx report debian --back 1',
    ].map((c) => [c, 'test/recovery runs these commands']),
  ),
  ...Object.fromEntries(
    [
      'bin/nyx run --bios seabios --disk new.img,bus=ahci --cdrom install.iso',
      'bin/nyx run debian-generic --disk data.img,bus=ahci --cdrom none',
      'bin/nyx cd ls',
      'bin/nyx cd eject',
      'bin/nyx cd insert tools.iso',
    ].map((c) => [c, 'test/ahci runs such machines and commands']),
  ),
  ...Object.fromEntries(
    [
      'bin/nyx checkpoint',
      'bin/nyx checkpoint ls',
      'bin/nyx checkpoint rm',
      'bin/nyx rollback',
      'bin/nyx policy set guestPanic rollback budget=3 window=600 escalate=pause',
    ].map((c) => [c, 'test/checkpoint.test.ts runs these commands']),
  ),
  'bin/nyx ps': [['bin/nyx', 'ps'], /./],
};

describe('documentation', () => {
  // ```ts path: the lines stand in that file, in this order.
  for (const { file, info, text } of fences) {
    const [, path] = /^\w+ (\S+\/\S+)$/.exec(info) ?? [];
    if (path) {
      it(`${file}: the excerpt of ${path} beginning "${text.split('\n')[0]!.trim().slice(0, 40)}" is what stands there`, () => {
        expect(readFileSync(join(root, path), 'utf8')).toContain(text);
      });
    }
  }
  for (const { file, text } of fences.filter((f) => f.info === 'sh')) {
    for (const line of text.split('\n')) {
      const command = line.replace(/\s+#.*$/, '').trim();
      if (!command) continue;
      const what = commands[command];
      it(`${file}: ${command}${typeof what === 'string' ? ` (not run here: ${what})` : ''}`, {
        timeout: 180_000,
      }, () => {
        expect(what, 'a command of the documentation that nobody runs').toBeDefined();
        if (!what || typeof what === 'string') return;
        const [[program, ...args], pattern] = what;
        const r = spawnSync(join(root, program!), args, { cwd: root, encoding: 'utf8' });
        expect([r.status, r.stderr]).toEqual([0, expect.any(String)]);
        expect(r.stdout).toMatch(pattern);
      });
    }
  }
  it('examples/library.ts does what it says', { timeout: 180_000 }, () => {
    const r = spawnSync(join(root, 'node_modules/.bin/tsx'), [join(root, 'examples/library.ts')], {
      encoding: 'utf8',
    });
    expect([r.stderr, r.status]).toEqual(['', 0]);
    expect(r.stdout).toMatch(/^status 0: Linux \d.*\n.*killed: status 0\n$/);
  });
  it('has excerpts, so that the test above tests something', () => {
    expect(fences.filter((f) => / /.test(f.info)).length).toBeGreaterThan(4);
  });
});
