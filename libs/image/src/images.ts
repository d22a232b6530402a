/**
 * The catalogue of guest images in the user's cache directory:
 *
 *     images/debian.json            what the image is (written last, by rename)
 *     images/debian-<key>/          vmlinuz, vmlinux, initrd.img
 *     packages/, apt/               downloads and apt's own state
 *
 * An image is built in a temporary directory and renamed, so that a name never leads to half an image.
 */
import { createHash, randomBytes } from 'node:crypto';
import {
  accessSync,
  constants,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { guestCmdline, makeDebian, type OnProgress } from './debian.ts';
import { ImageError } from './errors.ts';
import {
  agentScript,
  type Guest,
  guests,
  initScript,
  modulesForDevice,
  poweroffScript,
  profileScript,
} from './init.ts';
import { withLock } from './lock.ts';

/** Raise when what is made of the same packages and scripts changes. */
const RECIPE_VERSION = 1;

export interface Image {
  name: string;
  /** Names the content: recipe and package versions. */
  key: string;
  directory: string;
  /** Paths: the kernel as packaged (bzImage), the same unpacked (ELF; boots faster), the initramfs. */
  kernel: string;
  vmlinux: string;
  initrd: string;
  /** Kernel command line to start with. */
  cmdline: string;
  /** Kernel release, e.g. "6.1.0-56-cloud-amd64". */
  release: string;
  packages: { name: string; version: string }[];
  /** Bytes on disk. */
  bytes: number;
  /** ISO 8601. */
  builtAt: string;
}

interface Manifest extends Omit<Image, 'directory' | 'kernel' | 'vmlinux' | 'initrd'> {
  recipe: string;
  files: Record<string, number>;
}

/** $XDG_CACHE_HOME/nyx or ~/.cache/nyx. */
export const cacheRoot = (): string => join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'nyx');

const hash = (value: unknown): string =>
  createHash('sha256').update(JSON.stringify(value)).digest('hex').slice(0, 16);
const recipe = (guest: Guest): string =>
  hash([
    RECIPE_VERSION,
    initScript([], modulesForDevice),
    agentScript,
    poweroffScript,
    profileScript,
    guest.modules,
    guestCmdline,
  ]);

export class ImageStore {
  readonly #root: string;
  readonly #images: string;

  constructor(root = cacheRoot()) {
    this.#root = root;
    this.#images = join(root, 'images');
  }

  /** The image if it is there, whole and made by the present recipe; takes a few system calls. */
  find(name: string): Image | undefined {
    const manifest = this.#manifest(name);
    return manifest && Object.hasOwn(guests, name) && manifest.recipe === recipe(guestOf(name))
      ? this.#image(manifest)
      : undefined;
  }

  ls(): Image[] {
    let names: string[] = [];
    try {
      names = readdirSync(this.#images);
    } catch {}
    return names
      .filter((n) => n.endsWith('.json'))
      .map((n) => this.#manifest(n.slice(0, -5)))
      .flatMap((m) => (m ? [this.#image(m)] : []));
  }

  /**
   * Gives the image, building it if needed.
   * @param options.refresh ask apt for newer packages even if the image is there
   * @throws ImageError; an older image of that name stays as it was
   */
  async build(
    name: string,
    onProgress: OnProgress = () => {},
    options: { refresh?: boolean } = {},
  ): Promise<Image> {
    guestOf(name);
    const present = this.find(name);
    if (present && !options.refresh) return present;
    try {
      mkdirSync(this.#images, { recursive: true });
      accessSync(this.#images, constants.W_OK);
    } catch (error) {
      throw new ImageError(
        'IMAGE_CACHE_UNUSABLE',
        `a writable directory ${this.#images}`,
        error instanceof Error ? error.message : String(error),
        'Set XDG_CACHE_HOME to a directory that you can write.',
      );
    }
    return withLock(
      join(this.#images, name),
      async () => {
        // The process that we waited for may have done the work.
        const made = this.find(name);
        if (made && !options.refresh) return made;
        return this.#make(name, onProgress);
      },
      () => onProgress({ step: 'wait', message: `another process builds ${name}` }),
    );
  }

  /** Removes an image, and the downloads when it was the last. @returns false when there was none */
  async rm(name: string): Promise<boolean> {
    return withLock(
      join(this.#images, name),
      async () => {
        const known = this.#manifest(name) !== undefined;
        rmSync(join(this.#images, `${safe(name)}.json`), { force: true });
        for (const d of this.#directories(name)) rmSync(d, { recursive: true, force: true });
        if (this.ls().length === 0)
          for (const d of ['packages', 'apt']) rmSync(join(this.#root, d), { recursive: true, force: true });
        return known;
      },
      () => {},
    );
  }

  async #make(name: string, onProgress: OnProgress): Promise<Image> {
    const guest = guestOf(name);
    const made = await makeDebian(this.#root, guest, onProgress);
    const key = hash([recipe(guest), made.packages]);
    const directory = join(this.#images, `${name}-${key}`);
    const temporary = join(this.#images, `.${name}-${randomBytes(6).toString('hex')}`);
    const files: Record<string, number> = {};
    try {
      mkdirSync(temporary);
      for (const [file, data] of Object.entries(made.files)) {
        writeFileSync(join(temporary, file), data, { mode: 0o644, flush: true });
        files[file] = data.length;
      }
      // Same key, same content; but a directory may be there from a build that was cut off before its manifest, or damaged.
      rmSync(directory, { recursive: true, force: true });
      renameSync(temporary, directory);
    } finally {
      rmSync(temporary, { recursive: true, force: true });
    }
    const manifest: Manifest = {
      name,
      key,
      recipe: recipe(guest),
      cmdline: guestCmdline,
      release: made.release,
      packages: made.packages,
      files,
      bytes: Object.values(files).reduce((a, b) => a + b, 0),
      builtAt: new Date().toISOString(),
    };
    const target = join(this.#images, `${name}.json`);
    const previous = this.#manifest(name)?.key;
    writeFileSync(`${target}.tmp`, JSON.stringify(manifest, null, 2));
    renameSync(`${target}.tmp`, target);
    // Machines that run may still boot anew from the previous one.
    for (const d of this.#directories(name))
      if (d !== directory && !d.endsWith(`-${previous}`)) rmSync(d, { recursive: true, force: true });
    onProgress({
      step: 'done',
      message: `${name} ${made.release}, ${Math.round(manifest.bytes / 1e6)} MB in ${directory}`,
    });
    return this.#image(manifest);
  }

  /** The manifest, if it is sound and all files have the size that it says. */
  #manifest(name: string): Manifest | undefined {
    try {
      const m = JSON.parse(readFileSync(join(this.#images, `${safe(name)}.json`), 'utf8')) as Manifest;
      if (m.name !== name || !/^[0-9a-f]{16}$/.test(m.key)) return undefined;
      for (const f of ['vmlinuz', 'vmlinux', 'initrd.img'])
        if (statSync(join(this.#images, `${name}-${m.key}`, f)).size !== m.files[f]) return undefined;
      return m;
    } catch {
      return undefined;
    }
  }

  #image(m: Manifest): Image {
    const directory = join(this.#images, `${m.name}-${m.key}`);
    const { name, key, cmdline, release, packages, bytes, builtAt } = m;
    return {
      name,
      key,
      directory,
      kernel: join(directory, 'vmlinuz'),
      vmlinux: join(directory, 'vmlinux'),
      initrd: join(directory, 'initrd.img'),
      cmdline,
      release,
      packages,
      bytes,
      builtAt,
    };
  }

  #directories(name: string): string[] {
    const ours = new RegExp(`^\\.?${name}-[0-9a-f]+$`);
    try {
      return readdirSync(this.#images)
        .filter((d) => ours.test(d))
        .map((d) => join(this.#images, d));
    } catch {
      return [];
    }
  }
}

/** @throws ImageError IMAGE_UNKNOWN */
function guestOf(name: string): Guest {
  const guest = Object.hasOwn(guests, name) ? guests[name] : undefined;
  if (guest === undefined)
    throw new ImageError(
      'IMAGE_UNKNOWN',
      `an image that can be built: ${Object.keys(guests).join(', ')}`,
      `'${name}'`,
      'Give a kernel of your own with --kernel, or use debian.',
    );
  return guest;
}

/** @throws ImageError IMAGE_BAD_NAME for a name that could lead out of the directory */
function safe(name: string): string {
  if (!/^[a-z][a-z0-9._-]{0,63}$/.test(name))
    throw new ImageError(
      'IMAGE_BAD_NAME',
      'a name of small letters, digits, dots and dashes',
      `'${name}'`,
      'See `nyx image ls`.',
    );
  return name;
}
