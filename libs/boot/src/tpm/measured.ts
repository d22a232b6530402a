/**
 * What our loader measures when it boots a kernel by itself, as firmware and a boot loader would; PCRs and event types are those
 * of GRUB, so that a policy that knows it knows us:
 *
 *   PCR 0     EV_S_CRTM_VERSION  who measures
 *   PCR 0..7  EV_SEPARATOR       firmware is over
 *   PCR 9     EV_IPL             the kernel file, then the initrd
 *   PCR 8     EV_IPL             the kernel command line
 */
import { type Digests, digestsOfBytes, EventType, encodeLog, event, type LogEvent } from './event-log.ts';

/** Where the log lies, and how large it may be; reserved in the memory map. */
export const logArea = { address: 0xf_0000, bytes: 0x1_0000 } as const;

const text = (s: string): Uint8Array => Buffer.from(`${s}\0`, 'utf8');

export function measurements(what: {
  kernel: Digests;
  initrd?: Digests | undefined;
  cmdline: string;
}): LogEvent[] {
  const itself = (pcr: number, type: number, data: Uint8Array): LogEvent =>
    event(pcr, type, digestsOfBytes(data), data);
  const events = [itself(0, EventType.EV_S_CRTM_VERSION, text('Nyx loader'))];
  for (let pcr = 0; pcr < 8; pcr++) events.push(itself(pcr, EventType.EV_SEPARATOR, new Uint8Array(4)));
  const { kernel, initrd, cmdline } = what;
  const ipl = (pcr: number, digests: Digests, name: string): void =>
    void events.push(event(pcr, EventType.EV_IPL, digests, text(name)));
  ipl(9, kernel, 'kernel');
  if (initrd) ipl(9, initrd, 'initrd');
  ipl(8, digestsOfBytes(Buffer.from(cmdline, 'utf8')), `kernel_cmdline: ${cmdline}`);
  return events;
}

/** The log, padded to the size of its area: zeros end it. */
export function logImage(events: readonly LogEvent[]): Uint8Array {
  const out = new Uint8Array(logArea.bytes);
  out.set(encodeLog(events));
  return out;
}

/** TPM2_Startup(CLEAR) and a TPM2_PCR_Extend for each event (TPM 2.0 Library, part 3, 9.3 and 22.2). */
export function measuringCommands(events: readonly LogEvent[]): Uint8Array[] {
  const startup = Buffer.from('80010000000c000001440000', 'hex');
  const extends_ = events.map(({ pcr, digests }) => {
    const head = Buffer.from('80020000000000000182', 'hex');
    const auth = Buffer.alloc(21);
    auth.writeUInt32BE(pcr, 0);
    // One session: a password, which is empty.
    auth.writeUInt32BE(9, 4);
    auth.writeUInt32BE(0x4000_0009, 8);
    auth.writeUInt32BE(digests.length, 17);
    const out = Buffer.concat([
      head,
      auth,
      ...digests.flatMap(({ alg, digest }) => [Uint8Array.of(alg >> 8, alg & 255), digest]),
    ]);
    out.writeUInt32BE(out.length, 2);
    return out;
  });
  return [startup, ...extends_];
}

/** What firmware does when it is asked to clear the TPM: TPM2_ClearControl(NO) and TPM2_Clear by the platform (part 3, 24.6 and 24.7). */
export function clearingCommands(): Uint8Array[] {
  const password = '00000009400000090000000000';
  return [`800200000000000001274000000c${password}00`, `800200000000000001264000000c${password}`].map(
    (hex) => {
      const out = Buffer.from(hex, 'hex');
      out.writeUInt32BE(out.length, 2);
      return out;
    },
  );
}
