/** The content of the firmware configuration device, as the blob that it serves. */
import { fwCfgItems } from '@nyx/boot';
import { buildFwCfg, FwCfgItem } from '@nyx/device';
import type { VmSpec } from '@nyx/protocol/spec';

/** Added by buildFwCfg itself. */
const own: readonly number[] = [FwCfgItem.signature, FwCfgItem.features, FwCfgItem.directory];

export const fwCfgBlob = (spec: VmSpec): Uint8Array => {
  const items: Record<number, Uint8Array> = {};
  const files: { name: string; data: Uint8Array }[] = [];
  const menu = spec.bootMenu === undefined ? {} : { bootMenuMs: Math.round(spec.bootMenu * 1000) };
  for (const item of fwCfgItems({
    cpus: spec.cpus,
    ramBytes: spec.memory,
    hasDma: true,
    hasMouse: true,
    ...menu,
  })) {
    if ('file' in item) files.push({ name: item.file, data: item.bytes });
    else if (!own.includes(item.key)) items[item.key] = item.bytes;
  }
  return buildFwCfg({ items, files });
};
