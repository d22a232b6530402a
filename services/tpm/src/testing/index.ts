/** What benches and tests of the whole need to talk to a TPM. */
export type { CommandName, In } from '../spec/commands.ts';
export { ALG, NVA, RH } from '../spec/constants.ts';
export { nullScheme } from '../spec/types.ts';
export { commandBytes, parseResponse, templates } from './client.ts';
export { ringTpm } from './ring-driver.ts';
