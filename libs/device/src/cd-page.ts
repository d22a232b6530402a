/**
 * What a CD drive shows to the supervisor, in memory of its own: whether the medium may be changed, and which one it has
 * seen. Written in `settle` by the device, read by the supervisor.
 */
import { Memory, struct, u32, type View, view } from '@nyx/layout';

export const CdPage = struct('CdPage', {
  generation: u32('of the medium that the drive has'),
  ejects: u32('wishes to eject that it knows of'),
  locked: u32('1: the guest prevents removal'),
  trayOpen: u32('1: the guest, or an ejection, has opened it'),
});

export const cdPageBytes = 4096;

export const cdPage = (buffer: ArrayBuffer): View<typeof CdPage> => view(CdPage, new Memory(buffer));
