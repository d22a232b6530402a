/** A storage process: one disk, or several. */
import { serveDevices } from '@nyx/device';
import { kinds } from './kinds.ts';
import { syscalls } from './syscalls.ts';

serveDevices(kinds, syscalls);
