/** A front-end process: one device whose work a vhost-user back-end does. */
import { type AnyDeviceKind, serveDevices } from '@nyx/device';
import { vhostUser } from './device.ts';
import { syscalls } from './syscalls.ts';

serveDevices([vhostUser as AnyDeviceKind], syscalls);
