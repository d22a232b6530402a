/** The chips of this program, one line each. */
import type { AnyDeviceKind } from '@nyx/device';
import { ioapic } from './ioapic/device.ts';
import { pic } from './pic/device.ts';
import { pit } from './pit/device.ts';
import { uart16550 } from './uart16550/device.ts';

export const kinds: readonly AnyDeviceKind[] = [ioapic, pic, pit, uart16550];
