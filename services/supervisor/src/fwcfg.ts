/** The content of the firmware configuration device, as the blob that it serves. */
import { fwCfgItems } from '@nyx/boot';
import { buildFwCfg, FwCfgItem } from '@nyx/device';
import type { VmSpec } from '@nyx/protocol/spec';
import { sataPort, sataSlot } from './sata.ts';
import { diskSlot } from './wiring.ts';

/** Added by buildFwCfg itself. */
const own: readonly number[] = [FwCfgItem.signature, FwCfgItem.features, FwCfgItem.directory];

/** Disks in their order, then CDs, as paths of Open Firmware. */
const bootOrder = (spec: VmSpec): string[] => {
  const { device, fn } = sataSlot;
  const sata = (port: number): string => `/pci@i0cf8/*@${device.toString(16)},${fn}/drive@${port}/disk@0`;
  return [
    ...spec.disks.map((d, disk) =>
      d.bus === 'ahci'
        ? sata(sataPort(spec, { disk }))
        : `/pci@i0cf8/scsi@${diskSlot(disk).toString(16)}/disk@0,0`,
    ),
    ...spec.cdroms.map((_, cd) => sata(sataPort(spec, { cd }))),
  ];
};

export const fwCfgBlob = (spec: VmSpec): Uint8Array => {
  const items: Record<number, Uint8Array> = {};
  const files: { name: string; data: Uint8Array }[] = [];
  for (const item of fwCfgItems({
    cpus: spec.cpus,
    ramBytes: spec.memory,
    hasDma: true,
    hasMouse: true,
    tpm: spec.tpm?.model,
    // No VGA: the firmware takes the first serial port for its display and its keyboard.
    ...(spec.bootMenu > 0 ? { bootMenuMs: Math.round(spec.bootMenu * 1000) } : {}),
    bootOrder: bootOrder(spec),
  })) {
    if ('file' in item) files.push({ name: item.file, data: item.bytes });
    else if (!own.includes(item.key)) items[item.key] = item.bytes;
  }
  return buildFwCfg({ items, files });
};
