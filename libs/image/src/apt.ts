/**
 * Packages from the host's apt, without root: system lists where there are some, private ones otherwise; everything
 * that apt writes goes to our cache. apt checks signatures and hashes; we check the hash again when a file comes from our cache.
 */
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { ImageError } from './errors.ts';
import { tryTool } from './tool.ts';

export interface Package {
  name: string;
  version: string;
  depends: string[];
  sha256: string;
  /** Bytes of the .deb file. */
  size: number;
}

const NO_APT = 'Give a kernel of your own instead: `nyx run --kernel /boot/vmlinuz-... --initrd ...`.';

/** Stanzas of `apt-cache show`, the first of each package. */
function parse(text: string): Map<string, Package> {
  const found = new Map<string, Package>();
  for (const stanza of text.split(/\n\n+/)) {
    const field = (name: string): string => new RegExp(`^${name}: (.*)$`, 'm').exec(stanza)?.[1] ?? '';
    const name = field('Package');
    if (!name || found.has(name) || !field('SHA256')) continue;
    const depends = field('Depends')
      .split(/[,|]/)
      .map((d) => d.trim().split(/[ :(]/)[0]!)
      .filter(Boolean);
    found.set(name, {
      name,
      version: field('Version'),
      depends,
      sha256: field('SHA256'),
      size: Number(field('Size')),
    });
  }
  return found;
}

export class Apt {
  readonly #root: string;
  readonly #architecture: string | undefined;
  #private: boolean;

  /**
   * @param root directory for everything that apt writes
   * @param architecture whose packages; default: the host's. Of another one the lists are ours from the start (`update`)
   */
  constructor(root: string, architecture?: string) {
    this.#root = root;
    this.#architecture = architecture;
    this.#private = architecture !== undefined;
  }

  #options(): string[] {
    const o = [
      `Dir::Cache=${join(this.#root, 'cache')}`,
      'APT::Sandbox::User=',
      'Acquire::Retries=2',
      'Acquire::http::Timeout=30',
      'Acquire::https::Timeout=30',
      'Acquire::Languages=none',
    ];
    if (this.#architecture)
      o.push(`APT::Architecture=${this.#architecture}`, `APT::Architectures=${this.#architecture}`);
    if (process.getuid?.() === 0) o[1] = 'APT::Sandbox::User=root';
    if (this.#private)
      o.push(
        `Dir::State=${join(this.#root, 'state')}`,
        `Dir::State::lists=${join(this.#root, 'state/lists')}`,
        'Dir::State::status=/var/lib/dpkg/status',
        'Debug::NoLocking=1',
      );
    return o.flatMap((x) => ['-o', x]);
  }

  async #run(
    program: 'apt-get' | 'apt-cache',
    args: string[],
    options: { cwd?: string; onStatus?: (line: string) => void } = {},
  ): Promise<{ status: number; stdout: Buffer; stderr: string }> {
    await mkdir(join(this.#root, 'cache/archives/partial'), { recursive: true });
    if (this.#private) await mkdir(join(this.#root, 'state/lists/partial'), { recursive: true });
    const status = options.onStatus ? ['-o', 'APT::Status-Fd=3'] : [];
    try {
      return await tryTool(program, [...this.#options(), ...status, ...args], options);
    } catch (error) {
      if (error instanceof ImageError && error.code === 'IMAGE_NO_TOOL')
        throw new ImageError(
          'IMAGE_NO_APT',
          'a Debian or Ubuntu host with apt (the default guest is made from Debian packages)',
          `no ${program} in PATH`,
          NO_APT,
        );
      throw error;
    }
  }

  /** What apt knows of the packages; unknown ones are missing from the result. */
  async show(names: readonly string[]): Promise<Map<string, Package>> {
    // Status 100 when one of the names is unknown; the others are printed all the same.
    const { stdout } = await this.#run('apt-cache', ['show', '--no-all-versions', ...names]);
    return parse(stdout.toString('utf8'));
  }

  /** Fetches package lists into our own state directory and uses them from now on. */
  async update(onProgress: (fraction: number) => void): Promise<void> {
    this.#private = true;
    const { status, stderr } = await this.#run('apt-get', ['update', '-q'], {
      onStatus: (line) => onProgress(percent(line)),
    });
    if (status !== 0)
      throw new ImageError(
        'IMAGE_NO_PACKAGES',
        'package lists (`apt-get update`)',
        stderr.split('\n').slice(-2).join(' | ') || `status ${status}`,
        `Check the network and the host's apt sources. ${NO_APT}`,
      );
  }

  /**
   * The packages as files in `directory`, from there if they were fetched before.
   * @returns paths, in the order of `packages`
   * @throws ImageError IMAGE_DOWNLOAD_FAILED
   */
  async download(
    packages: readonly Package[],
    directory: string,
    onProgress: (fraction: number) => void,
  ): Promise<string[]> {
    await mkdir(directory, { recursive: true });
    const target = (p: Package): string => join(directory, `${p.name}_${p.sha256.slice(0, 16)}.deb`);
    const missing: Package[] = [];
    for (const p of packages) if ((await sha256(target(p))) !== p.sha256) missing.push(p);
    if (missing.length === 0) return packages.map(target);
    // apt writes here; only whole, checked files are renamed to their place.
    const work = await mkdtemp(join(directory, 'get-'));
    try {
      const { status, stderr } = await this.#run(
        'apt-get',
        ['download', '-q', ...missing.map((p) => `${p.name}=${p.version}`)],
        { cwd: work, onStatus: (line) => onProgress(percent(line)) },
      );
      if (status !== 0)
        throw new ImageError(
          'IMAGE_DOWNLOAD_FAILED',
          `packages ${missing.map((p) => p.name).join(', ')}`,
          stderr.split('\n').slice(-2).join(' | ') || `status ${status}`,
          'Check the network; a second try continues with what is there.',
        );
      for (const file of await readdir(work)) {
        const hash = await sha256(join(work, file));
        const p = missing.find((m) => m.sha256 === hash);
        if (p) await rename(join(work, file), target(p));
      }
    } finally {
      await rm(work, { recursive: true, force: true });
    }
    for (const p of missing)
      if ((await sha256(target(p))) !== p.sha256)
        throw new ImageError(
          'IMAGE_DOWNLOAD_FAILED',
          `package ${p.name} ${p.version} with SHA-256 ${p.sha256}`,
          'a file with another one',
          'Try again; if it stays, the mirror is damaged.',
        );
    return packages.map(target);
  }
}

/** 0..1 of a line on APT::Status-Fd ("dlstatus:<item>:<percent>:<text>"), NaN for others. */
const percent = (line: string): number =>
  line.startsWith('dlstatus:') ? Number(line.split(':')[2]) / 100 : Number.NaN;

async function sha256(path: string): Promise<string | undefined> {
  try {
    return createHash('sha256')
      .update(await readFile(path))
      .digest('hex');
  } catch {
    return undefined;
  }
}
