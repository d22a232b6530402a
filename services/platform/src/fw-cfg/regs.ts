/** fw_cfg: ports and state (docs/specs/fw_cfg.rst of QEMU). */

import { fwCfg } from '@nyx/device';
import { array, pad, struct, u8, u16, u32, u64 } from '@nyx/layout';

/** Control word of a DMA access. */
export const Dma = { error: 1, read: 2, skip: 4, select: 8, write: 16, bytes: 16 } as const;
/** A read beyond an item gives zeroes; more than this is an error, so that one access stays short. */
export const longestFill = 16 * 1024 * 1024;
/** What bit 14 once meant (write mode) is ignored. */
export const selectorMask = 0xbfff;

export const FwCfgState = struct(
  'FwCfgState',
  {
    selector: u16(),
    busy: u8('1: the DMA access below was read from guest memory and is not finished', { max: 1 }),
    pad0: pad(1),
    offset: u32('next byte of the item'),
    dmaHigh: u32('high half of the address of the next DMA access'),
    control: u32(),
    length: u32(),
    pad1: pad(4),
    at: u64('where the access structure is'),
    address: u64('where its data is'),
    writable: array('u8', fwCfg.writableBytes, 'bytes of the writable items'),
  },
  { doc: 'State of fw_cfg.' },
);
