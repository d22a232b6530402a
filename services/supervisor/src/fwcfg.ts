/** The content of the firmware configuration device, as the blob that it serves. */
import { fwCfgItems } from '@nyx/boot';
import { buildFwCfg, FwCfgItem } from '@nyx/device';
import type { VmSpec } from '@nyx/protocol/spec';
import { diskSlot } from './wiring.ts';

/** Added by buildFwCfg itself. */
const own: readonly number[] = [FwCfgItem.signature, FwCfgItem.features, FwCfgItem.directory];

export const fwCfgBlob = (spec: VmSpec): Uint8Array => {
  const items: Record<number, Uint8Array> = {};
  const files: { name: string; data: Uint8Array }[] = [];
  for (const item of fwCfgItems({
    cpus: spec.cpus,
    ramBytes: spec.memory,
    hasDma: true,
    hasMouse: true,
    // No VGA: the firmware takes the first serial port for its display and its keyboard.
    ...(spec.bootMenu > 0 ? { bootMenuMs: Math.round(spec.bootMenu * 1000) } : {}),
    bootOrder: spec.disks.map((_, i) => `/pci@i0cf8/scsi@${diskSlot(i).toString(16)}/disk@0,0`),
  })) {
    if ('file' in item) files.push({ name: item.file, data: item.bytes });
    else if (!own.includes(item.key)) items[item.key] = item.bytes;
  }
  return buildFwCfg({ items, files });
};
