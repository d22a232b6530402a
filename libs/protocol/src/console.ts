/**
 * A console: the shared memory between a UART (or any other byte-stream device) and the supervisor. Two rings of
 * bytes in one memfd; an eventfd for each direction. In the role of the device:
 *
 *   fds: { console: <memfd>, consoleOut: <eventfd, device to host>, consoleIn: <eventfd, host to device> }
 *
 * Counters are bytes since power-on modulo 2^32; the place of byte n is `n & (size - 1)`.
 *
 * Output: the device stores bytes n.. at their places, then `outHead`. Both are functions of its committed state (the
 * count and the last byte), so settling again changes nothing. The host never holds up the guest: a device that finds the
 * ring full overwrites, and the host, seeing `outHead - outTail > outBytes`, skips what was lost and counts it.
 * Input: the host stores bytes, then `inHead`, then writes `consoleIn`. The device keeps the count it has taken in
 * its state and publishes it as `inTail` when it settles; the host never puts more than `inBytes` ahead of it. When
 * `inTail` advances after the ring was full (`inHead - inTail == inBytes`), the device writes `consoleOut` as well.
 * A reset of the machine does not move the counters.
 */
import { pad, struct, u32 } from "@nyx/layout";

export const consoleWire = {
  /** 'NYXC' */
  magic: 0x4358594e,
  version: 1,
  outAt: 0x1000,
  outBytes: 0x100000,
  inAt: 0x101000,
  inBytes: 0x1000,
  /** Size of the memfd. */
  bytes: 0x102000,
} as const;

export const ConsoleHeader = struct(
  "ConsoleHeader",
  {
    magic: u32("consoleWire.magic"),
    version: u32(),
    outBytes: u32("size of the output ring, a power of two"),
    inBytes: u32("size of the input ring, a power of two"),
    pad0: pad(48),
    // The device writes this line.
    outHead: u32("bytes sent so far"),
    inTail: u32("bytes taken so far"),
    pad1: pad(56),
    // The host writes this line.
    outTail: u32("bytes read so far"),
    inHead: u32("bytes offered so far"),
    pad2: pad(56),
  },
  { bytes: 192, doc: "First page of a console memfd." },
);
