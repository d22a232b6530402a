/** The common configuration structure (VIRTIO 1.2 section 4.1.4.3) over the state of a device. */
import { RegisterBank, type View } from '@nyx/layout';
import type { VirtioDevice, VirtioView } from './device.ts';
import type { Virtqueue } from './queue.ts';
import { commonRegisters, noVector, type QueueState, VirtioFeature, VirtioStatus } from './regs.ts';

/** What the transport does when the driver writes. */
export interface CommonActions {
  status(value: number): void;
  /** The status as the driver reads it. */
  shown(): number;
  enable(queue: Virtqueue): void;
  reset(queue: Virtqueue): void;
}

/** Feature bits that a device and this transport offer. */
export const offeredFeatures = (device: VirtioDevice): { lo: number; hi: number } => ({
  lo: (device.features | (1 << VirtioFeature.indirectDesc) | (1 << VirtioFeature.eventIdx)) >>> 0,
  hi: (1 << (VirtioFeature.version1 - 32)) | (1 << (VirtioFeature.ringReset - 32)),
});

export function commonBank(
  state: VirtioView,
  queues: readonly Virtqueue[],
  device: VirtioDevice,
  actions: CommonActions,
): RegisterBank<string> {
  const v = state.virtio.at(0);
  const { lo: offeredLo, hi: offeredHi } = offeredFeatures(device);
  const selected = (): Virtqueue | undefined => queues[v.queueSelect];
  /** The selected queue while it may be configured. */
  const open = (): View<typeof QueueState> | undefined => {
    const s = selected()?.state;
    return s && !s.enabled && !s.resetting && !v.resetting ? s : undefined;
  };
  const vector = (value: number): number => (value < state.vectors.length ? value : noVector);
  const half = (field: 'descLo' | 'descHi' | 'driverLo' | 'driverHi' | 'deviceLo' | 'deviceHi') => ({
    read: () => selected()?.state[field] ?? 0,
    write: (value: number) => {
      const s = open();
      if (s) s[field] = value;
    },
  });
  const halves = {
    queueDescLo: half('descLo'),
    queueDescHi: half('descHi'),
    queueDriverLo: half('driverLo'),
    queueDriverHi: half('driverHi'),
    queueDeviceLo: half('deviceLo'),
    queueDeviceHi: half('deviceHi'),
  };
  const pick = <K extends 'read' | 'write'>(k: K) =>
    Object.fromEntries(Object.entries(halves).map(([name, h]) => [name, h[k]]));
  return new RegisterBank<string>(
    commonRegisters,
    v,
    {
      read: {
        ...pick('read'),
        status: () => actions.shown(),
        deviceFeature: () =>
          v.deviceFeatureSelect === 0 ? offeredLo : v.deviceFeatureSelect === 1 ? offeredHi : 0,
        driverFeature: () =>
          v.driverFeatureSelect === 0
            ? v.driverFeaturesLo
            : v.driverFeatureSelect === 1
              ? v.driverFeaturesHi
              : 0,
        numQueues: () => queues.length,
        queueSize: () => selected()?.size ?? 0,
        queueVector: () => selected()?.state.vector ?? noVector,
        queueEnable: () => selected()?.state.enabled ?? 0,
        queueNotifyOff: () => selected()?.index ?? 0,
        queueNotifyData: () => selected()?.index ?? 0,
        queueReset: () => selected()?.state.resetting ?? 0,
      },
      write: {
        ...pick('write'),
        driverFeature: (value) => {
          // 2.2: after FEATURES_OK the set is closed.
          if (v.status & VirtioStatus.featuresOk) return;
          if (v.driverFeatureSelect === 0) v.driverFeaturesLo = value;
          else if (v.driverFeatureSelect === 1) v.driverFeaturesHi = value;
        },
        configVector: (value) => {
          v.configVector = vector(value);
        },
        status: (value) => actions.status(value),
        queueSize: (value) => {
          const s = open();
          if (s && value > 0 && value <= device.queueSize && (value & (value - 1)) === 0) s.size = value;
        },
        queueVector: (value) => {
          const q = selected();
          if (q) q.state.vector = vector(value);
        },
        queueEnable: (value) => {
          const q = selected();
          if (q && value === 1) actions.enable(q);
        },
        queueReset: (value) => {
          const q = selected();
          if (q && value === 1) actions.reset(q);
        },
      },
    },
    0,
  );
}
