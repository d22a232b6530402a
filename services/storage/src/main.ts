/** A storage process: one disk, or several. */
import { serveDevices } from '@nyx/device';
import { kinds } from './kinds.ts';

serveDevices(kinds);
