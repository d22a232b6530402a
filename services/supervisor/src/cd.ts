/**
 * Media of CD drives, changed while the machine runs. A medium is a descriptor in the role of the controller's process: the
 * role is changed and the process replaced, and the successor finds in the state of the drive that the medium is not the one
 * it knew. Commands under way to other drives go on, as after any death of the process.
 */
import { cdPage } from '@nyx/device/cd-page';
import { close } from '@nyx/native';
import type { Result } from '@nyx/protocol/control';
import { NyxError } from '@nyx/protocol/errors';
import type { VmSpec } from '@nyx/protocol/spec';
import type { DeviceProcess } from './device-process.ts';
import { type DiskFile, openMedium } from './disk-files.ts';
import { type Keeping, noKeeper } from './keeper.ts';
import type { InheritedCd, KeptCd } from './kept-disks.ts';
import { openFile } from './preflight.ts';
import { cdConfig, sataPort } from './sata.ts';

type Drives = Pick<VmSpec, 'disks' | 'cdroms'>;

interface Medium {
  path: string | undefined;
  medium: DiskFile | undefined;
  generation: number;
  ejects: number;
}

interface Drive extends Medium {
  name: string;
  port: number;
  page: ReturnType<typeof cdPage>;
  /** Of its descriptor in the role; undefined until it had a medium. */
  slot: number | undefined;
}

/** What the role says of a drive. */
const readConfig = (ports: unknown, port: number): { generation: number; ejects: number } => {
  const { generation, ejects } = (ports as Medium[])[port]!;
  return { generation, ejects };
};

export class CdDrives {
  readonly #drives: Drive[];
  /** One change after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  /**
   * @param media as opened
   * @param pages by which the drives tell their state
   * @param process of the controller
   */
  constructor(
    spec: Drives,
    media: readonly (DiskFile | undefined)[],
    pages: readonly ArrayBuffer[],
    private readonly process: () => DeviceProcess | undefined,
    private readonly keeper: Keeping = noKeeper,
    inherited?: readonly InheritedCd[],
  ) {
    this.#drives = spec.cdroms.map((c, cd) => ({
      name: `cd${cd}`,
      port: sataPort(spec, { cd }),
      page: cdPage(pages[cd]!),
      path: inherited ? inherited[cd]!.path : c.path,
      medium: media[cd],
      slot: undefined,
      generation: inherited?.[cd]?.generation ?? 0,
      ejects: inherited?.[cd]?.ejects ?? 0,
    }));
    for (const [cd, d] of this.#drives.entries()) this.#keep(cd, d);
  }

  /** @param before while the role says that still */
  #keep(cd: number, now: Medium, before?: Medium): void {
    const kept = ({ path, medium, generation, ejects }: Medium): KeptCd => ({
      ...(path === undefined ? {} : { path }),
      ...(medium ? { bytes: medium.bytes } : {}),
      generation,
      ejects,
    });
    const fds = [now, before].flatMap((m) => (m?.medium ? [m.medium.fd] : []));
    this.keeper.put(`cd/${cd}`, { now: kept(now), ...(before ? { before: kept(before) } : {}) }, fds);
  }

  list(): Result<'cdList'> {
    return {
      drives: this.#drives.map(({ name, path, page }) => ({
        name,
        ...(path === undefined ? {} : { path }),
        locked: page.locked !== 0,
        open: page.trayOpen !== 0,
      })),
    };
  }

  /**
   * Takes the medium out. A drive that the guest has locked keeps it, and the guest is asked, unless `force`.
   * @throws NyxError DEVICE_UNKNOWN, VM_STATE
   */
  eject(name: string | undefined, force: boolean): Promise<Result<'cdEject'>> {
    return this.#inTurn(async () => {
      const d = this.#find(name);
      if (d.page.locked && !force) {
        d.ejects++;
        await this.#renew(d, d.medium, d.path);
        return { name: d.name, ejected: false };
      }
      await this.#change(d, undefined, undefined);
      return { name: d.name, ejected: true };
    });
  }

  /** Puts a medium in, instead of the one that is there. @throws NyxError as `eject`, FILE_*, DISK_INVALID, CD_LOCKED */
  insert(name: string | undefined, path: string, force: boolean): Promise<Result<'cdInsert'>> {
    return this.#inTurn(async () => {
      const d = this.#find(name);
      if (d.page.locked && d.medium && !force)
        throw new NyxError('CD_LOCKED', {
          expected: 'a drive that the guest has not locked',
          got: `'${d.name}'`,
        });
      const medium = openMedium(openFile, d.name, path);
      await this.#change(d, medium, path);
      return { name: d.name };
    });
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work, work);
    this.#turn = done.catch(() => {});
    return done;
  }

  #find(name: string | undefined): Drive {
    const drives = this.#drives;
    const found = name === undefined && drives.length === 1 ? drives[0] : drives.find((d) => d.name === name);
    if (found) return found;
    throw new NyxError('DEVICE_UNKNOWN', {
      expected:
        drives.length > 0 ? `one of ${drives.map((d) => d.name).join(', ')}` : 'a machine with a CD drive',
      got: name === undefined ? 'no name' : `'${name}'`,
    });
  }

  async #change(d: Drive, medium: DiskFile | undefined, path: string | undefined): Promise<void> {
    const old = d.medium;
    d.generation++;
    try {
      await this.#renew(d, medium, path);
    } finally {
      // Which of the two nobody has.
      const unused = d.medium === medium ? old : medium;
      if (unused) close(unused.fd);
    }
  }

  /** Changes the role while nobody has it, and waits until the drive knows. */
  async #renew(d: Drive, medium: DiskFile | undefined, path: string | undefined): Promise<void> {
    const p = this.process();
    if (!p || p.state === 'stopped' || p.state === 'isolated')
      throw new NyxError('VM_STATE', {
        expected: "the controller's process to serve",
        got: p?.state ?? 'none',
      });
    const cd = this.#drives.indexOf(d);
    const { generation, ejects } = d;
    await p.replace('medium', async () => {
      const device = p.plan.role.devices.find((r) => r.kind === 'ahci')!;
      const key = `p${d.port}.file`;
      const { [key]: had, ...fds } = device.fds;
      d.slot ??= had;
      if (medium) {
        if (d.slot === undefined) d.slot = p.plan.fds.push(medium.fd) - 1;
        else p.plan.fds[d.slot] = medium.fd;
        fds[key] = d.slot;
        // A place that is not named: any descriptor that exists fills it.
      } else if (d.slot !== undefined) p.plan.fds[d.slot] = p.plan.fds[device.fds[`p${d.port}.page`]!]!;
      device.fds = fds;
      const ports = [...(device.config.ports as unknown[])];
      ports[d.port] = cdConfig(Number(d.name.slice(2)), medium, d.generation, d.ejects);
      const before = { path: d.path, medium: d.medium, ...readConfig(device.config.ports, d.port) };
      device.config = { ...device.config, ports };
      this.#keep(cd, { path, medium, generation, ejects }, before);
      d.medium = medium;
      d.path = path;
    });
    this.#keep(cd, d);
    if (d.page.generation !== d.generation || d.page.ejects !== d.ejects)
      throw new NyxError('DEVICE_SILENT', { expected: `'${d.name}' to take the change`, got: p.state });
  }
}
