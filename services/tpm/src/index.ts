export { execute } from './core/dispatch.ts';
export { MemoryStore, type Store } from './core/store.ts';
export { Tpm, type TpmOptions } from './core/tpm.ts';
export { TpmHost } from './server/host.ts';
export { MssimServer } from './server/mssim.ts';
export { SwtpmServer } from './server/swtpm.ts';
export { FileStore, readKeyFile, StoreError } from './store/file.ts';
