/** Where the built parts are: found upwards from the bundle, so that the project can lie anywhere. */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { NyxError } from '@nyx/protocol/errors';

const here = dirname(fileURLToPath(import.meta.url));

/** @throws NyxError NOT_BUILT */
export const built = (path: string): string => {
  for (let folder = here; ; folder = dirname(folder)) {
    const candidate = join(folder, path);
    if (existsSync(candidate)) return candidate;
    if (folder === dirname(folder))
      throw new NyxError('NOT_BUILT', { expected: path, got: `nothing above ${here}` });
  }
};

export const vcpuProgram = (): string => built('services/vcpu/build/Release/nyx-vcpu');
/** The bundle of a device service, e.g. 'platform', or of a program by its path. */
export const serviceBundle = (service: string): string =>
  service.startsWith('/') ? service : built(`services/${service}/dist/${service}.cjs`);
/** What the process of a bundle reads: tools/bundle.mjs makes the three; a bundle of one's own may be one file. */
export const bundleFiles = (bundle: string): string[] => [
  bundle,
  ...['js', 'cache'].map((kind) => bundle.replace(/cjs$/, kind)).filter((f) => f !== bundle && existsSync(f)),
];
export const addonPath = (): string => built('libs/native/build/Release/nyx_native.node');
