import { serveDevices } from '@nyx/device';
import { doorbell } from './device.ts';

serveDevices([doorbell]);
