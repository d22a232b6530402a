/**
 * How a virtio device looks as a PCI function: identity, BARs and capabilities (VIRTIO 1.2 sections 4.1.2 and
 * 4.1.4). BAR 1 holds the MSI-X table, BAR 4 the virtio structures, a page each.
 */
import { type RegisterSpec, registers } from '@nyx/layout';
import {
  type Bar,
  type Capability,
  expressCapability,
  type FunctionSpec,
  MsixLayout,
  msixCapability,
  placeCapabilities,
  vendorCapability,
} from '../pci/index.ts';
import { CfgType, VirtioLayout } from './regs.ts';

/** Regions of the device. */
export const Region = { virtio: 0, msix: 1 } as const;

/** Interrupt sources of the device: INTx first, then a message for each vector. */
export const Irq = { intx: 0, message: 1 } as const;

export const virtioBars: readonly Bar[] = [
  { index: 1, kind: 'mem32', size: MsixLayout.bytes, region: Region.msix, range: 0 },
  { index: 4, kind: 'mem64', size: VirtioLayout.bytes, prefetchable: true, region: Region.virtio, range: 1 },
];

/** struct virtio_pci_cap. The fields of the PCI configuration access capability are writable and served elsewhere. */
function structure(
  name: string,
  type: number,
  offset: number,
  length: number,
  multiplier?: number,
): Capability {
  const constant = (at: number, width: 1 | 4, doc: string, reset: number): RegisterSpec => ({
    at,
    width,
    doc,
    mask: 0,
    reset,
  });
  const access = type === CfgType.pci;
  const fields: Record<string, RegisterSpec> = { [`${name}Type`]: constant(3, 1, 'cfg_type', type) };
  if (!access) {
    fields[`${name}Bar`] = constant(4, 1, 'bar', 4);
    fields[`${name}Offset`] = constant(8, 4, 'offset', offset);
    fields[`${name}Bytes`] = constant(12, 4, 'length', length);
  }
  if (multiplier !== undefined)
    fields[`${name}Multiplier`] = constant(16, 4, 'notify_off_multiplier', multiplier);
  return vendorCapability(name, access || multiplier !== undefined ? 20 : 16, fields);
}

export interface VirtioIdentity {
  /** Virtio device type (5), e.g. 2 for a block device. */
  type: number;
  /** PCI class code. */
  classCode: number;
  vectors: number;
  /** Bytes of the device configuration structure. */
  configBytes: number;
}

/** Everything about the function, and where the configuration access capability lies. */
export function virtioFunction(id: VirtioIdentity): { spec: FunctionSpec; accessAt: number } {
  const notifyBytes = VirtioLayout.maxQueues * VirtioLayout.notifyMultiplier;
  const capabilities: Capability[] = [
    msixCapability({ vectors: id.vectors, bar: 1, table: MsixLayout.table, pba: MsixLayout.pba }),
    structure('common', CfgType.common, VirtioLayout.common, 0x40),
    structure('notify', CfgType.notify, VirtioLayout.notify, notifyBytes, VirtioLayout.notifyMultiplier),
    structure('isrCap', CfgType.isr, VirtioLayout.isr, 1),
    structure('deviceCfg', CfgType.device, VirtioLayout.device, id.configBytes),
    structure('access', CfgType.pci, 0, 0),
    expressCapability(),
  ];
  return {
    accessAt: placeCapabilities(capabilities).at.get('access') as number,
    spec: {
      // 4.1.2.1: revision 1 and up, subsystem id 0x40 and up mark a device without legacy interface.
      identity: {
        vendorId: 0x1af4,
        deviceId: 0x1040 + id.type,
        revision: 1,
        classCode: id.classCode,
        subsystemVendorId: 0x1af4,
        subsystemId: 0x1100,
        interruptPin: 1,
      },
      bars: virtioBars,
      capabilities,
      bytes: 4096,
    },
  };
}

/** Fields of the configuration access capability (4.1.4.9), at absolute offsets; data goes through handlers. */
export const accessRegisters = (at: number) =>
  registers('virtioAccess', 256, {
    cfgBar: { at: at + 4, width: 1, doc: 'bar' },
    cfgOffset: { at: at + 8, width: 4, doc: 'offset' },
    cfgLength: { at: at + 12, width: 4, doc: 'length' },
    cfgData: { at: at + 16, width: 4, doc: 'pci_cfg_data' },
  });
