/**
 * Virtio over PCI as data: VIRTIO 1.2 sections 2.1 (device status), 2.2 (features), 4.1.4 (structures). Layouts of
 * the split virtqueue (2.7) are in `queue.ts`.
 */
import { array, type Fields, pad, registers, struct, structs, u8, u16, u32, u64 } from '@nyx/layout';
import { MsixVector, PciState } from '../pci/index.ts';

/** Device status bits, 2.1. */
export const VirtioStatus = {
  acknowledge: 1,
  driver: 2,
  driverOk: 4,
  featuresOk: 8,
  needsReset: 64,
  failed: 128,
} as const;

/** Feature bits that belong to queues and transport, 6. Numbers of bits. */
export const VirtioFeature = { indirectDesc: 28, eventIdx: 29, version1: 32, ringReset: 40 } as const;

/** ISR status bits, 4.1.4.5. */
export const Isr = { queue: 1, config: 2 } as const;

/** Vector of an event that is not mapped to one, 4.1.5.1.2. */
export const noVector = 0xffff;

/** cfg_type of the structure capabilities, 4.1.4. */
export const CfgType = { common: 1, notify: 2, isr: 3, device: 4, pci: 5 } as const;

/** Places of the structures in their region (BAR 4), a page each. */
export const VirtioLayout = {
  common: 0x0000,
  isr: 0x1000,
  device: 0x2000,
  notify: 0x3000,
  bytes: 0x4000,
  /** Bytes between the doorbells of two queues. */
  notifyMultiplier: 4,
  maxQueues: 16,
} as const;

/** Common configuration, 4.1.4.3. Registers of the selected queue have handlers. */
export const commonRegisters = registers('virtioCommon', 0x40, {
  deviceFeatureSelect: { at: 0x00, width: 4, doc: 'Which 32 feature bits deviceFeature shows' },
  deviceFeature: { at: 0x04, width: 4, doc: 'Features offered', mask: 0 },
  driverFeatureSelect: { at: 0x08, width: 4, doc: 'Which 32 feature bits driverFeature shows' },
  driverFeature: { at: 0x0c, width: 4, doc: 'Features accepted' },
  configVector: { at: 0x10, width: 2, doc: 'MSI-X vector of configuration changes' },
  numQueues: { at: 0x12, width: 2, doc: 'Queues of the device', mask: 0 },
  status: { at: 0x14, width: 1, doc: 'Device status; writing 0 resets' },
  configGeneration: { at: 0x15, width: 1, doc: 'Changes with the device configuration', mask: 0 },
  queueSelect: { at: 0x16, width: 2, doc: 'Queue that the fields below are about' },
  queueSize: { at: 0x18, width: 2, doc: 'Entries; 0: no such queue' },
  queueVector: { at: 0x1a, width: 2, doc: 'MSI-X vector of the queue' },
  queueEnable: { at: 0x1c, width: 2, doc: '1: enabled' },
  queueNotifyOff: { at: 0x1e, width: 2, doc: 'Doorbell, in multipliers', mask: 0 },
  queueDesc: { at: 0x20, width: 8, doc: 'Guest address of the descriptor area' },
  queueDriver: { at: 0x28, width: 8, doc: 'Guest address of the driver area (available ring)' },
  queueDevice: { at: 0x30, width: 8, doc: 'Guest address of the device area (used ring)' },
  queueNotifyData: { at: 0x38, width: 2, doc: 'Unused without VIRTIO_F_NOTIF_CONFIG_DATA', mask: 0 },
  queueReset: { at: 0x3a, width: 2, doc: '1: reset of the queue' },
});

/** The whole region, for the exit classes: doorbells need no answer. */
export const virtioRegion = registers(
  'virtio',
  VirtioLayout.bytes,
  Object.fromEntries(
    Array.from({ length: VirtioLayout.maxQueues }, (_, q) => [
      `notify${q}`,
      {
        at: VirtioLayout.notify + q * VirtioLayout.notifyMultiplier,
        width: 2 as const,
        doc: `Doorbell of queue ${q}`,
        write: 'posted' as const,
      },
    ]),
  ),
);

export const VirtioState = struct(
  'VirtioState',
  {
    driverFeatures: u64('features accepted so far'),
    deviceFeatureSelect: u32(),
    driverFeatureSelect: u32(),
    configVector: u16('', { reset: noVector }),
    queueSelect: u16(),
    status: u8('VirtioStatus'),
    isr: u8('Isr', { max: 3 }),
    configGeneration: u8(),
    resetting: u8('1: a reset waits for requests in flight', { max: 1 }),
    cfgOffset: u32('PCI configuration access capability'),
    cfgLength: u32(),
    cfgBar: u8(),
    pad0: pad(1),
    order: u16('order of the next request taken'),
    pad1: pad(4),
  },
  { bytes: 40 },
);

export const QueueState = struct(
  'QueueState',
  {
    size: u16('entries as the driver set them; 0: the most'),
    vector: u16('', { reset: noVector }),
    enabled: u8('', { max: 1 }),
    resetting: u8('1: queue_reset waits for requests in flight', { max: 1 }),
    availIdx: u16('available index up to which requests were taken'),
    usedIdx: u16('used index; the ring is made to say so in settle'),
    signalled: u16('used index at the last decision about an interrupt that was committed'),
    pad0: pad(4),
    desc: u64('guest address'),
    driver: u64('guest address'),
    device: u64('guest address'),
  },
  { bytes: 40 },
);

/** What every virtio device remembers. Requests in flight are the slots whose owner is not 0. */
export const virtioFields = (queues: number, vectors: number, slots: number) =>
  ({
    virtio: structs(VirtioState, 1),
    queues: structs(QueueState, queues),
    pci: structs(PciState, 1),
    vectors: structs(MsixVector, vectors),
    counts: array('u32', vectors, 'messages sent by each vector'),
    heads: array('u16', slots, 'first descriptor of the request in each slot'),
    orders: array('u16', slots, 'VirtioState.order when it was taken'),
    owners: array('u8', slots, 'its queue + 1; 0: the slot is free', { max: queues }),
  }) satisfies Fields;

/** Fields that a machine reset keeps (DeviceKind.keep): interrupt words go on counting. `VirtioPci.reset` cares for the rest. */
export const virtioKeep = ['pci', 'counts'] as const;
