/** The chips of this program, one line each. */
import type { AnyDeviceKind } from '@nyx/device';
import { acpiPm } from './acpi-pm/device.ts';
import { debugcon } from './debugcon/device.ts';
import { fwCfgDevice } from './fw-cfg/device.ts';
import { i6300esb } from './i6300esb/device.ts';
import { i8042 } from './i8042/device.ts';
import { ioapic } from './ioapic/device.ts';
import { lpc } from './lpc/device.ts';
import { mch } from './mch/device.ts';
import { pic } from './pic/device.ts';
import { pit } from './pit/device.ts';
import { post } from './post/device.ts';
import { pvpanic } from './pvpanic/device.ts';
import { rtc } from './rtc/device.ts';
import { uart16550 } from './uart16550/device.ts';

export const kinds: readonly AnyDeviceKind[] = [
  acpiPm,
  debugcon,
  fwCfgDevice,
  i6300esb,
  i8042,
  ioapic,
  lpc,
  mch,
  pic,
  pit,
  post,
  pvpanic,
  rtc,
  uart16550,
];
