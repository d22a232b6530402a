/** fw_cfg. Region 0: ports 0x510 (selector, 16 bits) and 0x511 (data); 1: DMA address at 0x514, big-endian. */
import { defineDevice, readFwCfgIndex } from '@nyx/device';
import { FwCfg } from './chip.ts';
import { FwCfgState } from './regs.ts';

const signature = new TextEncoder().encode('QEMU CFG');
const swap = (v: number): number =>
  ((v << 24) | ((v & 0xff00) << 8) | ((v >>> 8) & 0xff00) | (v >>> 24)) >>> 0;

export const fwCfgDevice = defineDevice({
  kind: 'fw-cfg',
  stateVersion: 1,
  state: FwCfgState,
  regions: [
    { name: 'ports', size: 2 },
    { name: 'dma', size: 8 },
  ],
  ranges: 0,
  irqs: () => 0,
  early: () => true,
  create(ctx) {
    const s = ctx.state;
    const blob = ctx.bulk('blob');
    const chip = new FwCfg(s, blob, readFwCfgIndex(blob), ctx.memory, () => ctx.checkpoint());
    const readSignature = (offset: number, width: number): number => {
      let value = 0;
      for (let i = 0; i < width && i < 4; i++) value |= (signature[offset + i] ?? 0xff) << (8 * i);
      return value >>> 0;
    };
    return {
      // Only bytes are data, only words select: what real accesses are.
      read(region, offset, width) {
        if (region === 0) return width === 1 ? chip.readByte() : 0;
        if (width === 8) ctx.replyHi = readSignature(offset + 4, 4);
        return readSignature(offset, width);
      },
      write(region, offset, width, value, valueHi) {
        if (region === 0) {
          if (offset === 0 && width === 2) chip.select(value);
        } else if (width === 4 && offset === 0) s.dmaHigh = swap(value);
        else if (width === 4 && offset === 4) chip.dma(swap(value));
        else if (width === 8 && offset === 0) {
          if (!s.busy) s.dmaHigh = swap(value);
          chip.dma(swap(valueHi));
        }
      },
      readBurst(region, offset, width, out) {
        if (region === 0 && width === 1) for (let i = 0; i < out.length; i++) out[i] = chip.readByte();
        else
          for (let at = 0; at < out.length; at++)
            out[at] = region === 0 ? 0 : readSignature(offset + (at % width), 1);
      },
      reset: () => chip.reset(),
      settle() {},
    };
  },
});
