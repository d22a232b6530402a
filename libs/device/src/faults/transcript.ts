/**
 * A transcript: every exit of a device process and its answer, in a file that outlives the process. The entry of an
 * exit is found by its ring and sequence, so that one which is executed again replaces what its first execution
 * wrote. `published` is what stood in the ring when the guest had gone on: the answer that the guest really got.
 * While a transcript is made, no register is served without asking (class table), so that it holds every access.
 */
import { Memory, pad, struct, u8, u16, u32, type View, view } from '@nyx/layout';
import { crc32c, ctl } from '@nyx/native';
import { ExitKind, type RingsView } from '@nyx/ring';

export const Entry = struct(
  'TranscriptEntry',
  {
    seq: u32('low half; 0: empty'),
    kind: u8('ExitKind'),
    width: u8(),
    device: u16(),
    region: u16(),
    executions: u16('times that the handler ran'),
    count: u32(),
    offset: u32(),
    dataLo: u32(),
    dataHi: u32(),
    burst: u32('CRC-32C of the elements'),
    replyLo: u32(),
    replyHi: u32(),
    status: u32(),
    publishedLo: u32(),
    publishedHi: u32(),
    publishedStatus: u32(),
    audited: u32('1: `published` was read'),
    pad0: pad(4),
  },
  { bytes: 64 },
);

export const transcriptWire = {
  /** Entries of one ring. A file of 16 MiB a ring, sparse. */
  entries: 1 << 18,
} as const;

export const transcriptBytes = (rings: number): number => rings * transcriptWire.entries * Entry.bytes;

export class Transcript {
  /** Sequences beyond its room were not recorded. */
  overflow = false;
  readonly #entry: View<typeof Entry>;
  readonly #rings: RingsView;
  readonly #bursts: readonly Uint8Array[];

  constructor(buffer: ArrayBuffer, rings: RingsView) {
    if (buffer.byteLength < transcriptBytes(rings.rings))
      throw Object.assign(
        new Error(`a transcript of ${rings.rings} rings needs ${transcriptBytes(rings.rings)} bytes`),
        {
          code: 'TRANSCRIPT_SIZE',
        },
      );
    this.#entry = view(Entry, new Memory(buffer));
    this.#rings = rings;
    this.#bursts = Array.from({ length: rings.rings }, (_, i) => rings.burst(i));
  }

  #at(ring: number, seq: number): View<typeof Entry> | undefined {
    if (seq < 1 || seq > transcriptWire.entries) return undefined;
    this.#entry.$root.base = (ring * transcriptWire.entries + seq - 1) * Entry.bytes;
    return this.#entry;
  }

  /** The exit in `words` will be answered so. Called before its commit. */
  record(words: Uint32Array, low: number, high: number, status: number): void {
    const ring = words[ctl.ring]!;
    const seq = words[ctl.seqLo]!;
    this.#audit(ring, seq - 1);
    const e = this.#at(ring, seq);
    if (e === undefined) {
      this.overflow = true;
      return;
    }
    e.seq = seq;
    e.kind = words[ctl.kind]!;
    e.width = words[ctl.width]!;
    e.device = words[ctl.device]!;
    e.region = words[ctl.region]!;
    e.executions++;
    e.count = words[ctl.count]!;
    e.offset = words[ctl.offsetLo]!;
    e.dataLo = words[ctl.dataLo]!;
    e.dataHi = words[ctl.dataHi]!;
    if (e.kind === ExitKind.readBurst || e.kind === ExitKind.writeBurst) {
      const { buffer, byteOffset } = this.#bursts[ring]!;
      e.burst = crc32c(buffer as ArrayBuffer, byteOffset, e.count * e.width);
    }
    e.replyLo = low;
    e.replyHi = high;
    e.status = status;
  }

  /** What the ring says that the guest was answered to an earlier request, while it is still there. */
  #audit(ring: number, seq: number): void {
    const e = this.#at(ring, seq);
    if (e === undefined) return;
    const slot = this.#rings.slot(ring, seq);
    if (slot.seqLo !== seq || slot.replySeqLo !== seq) return;
    e.publishedLo = slot.replyLo;
    e.publishedHi = slot.replyHi;
    e.publishedStatus = slot.status;
    e.audited = 1;
  }
}

/** One exit as a reader of transcripts sees it. */
export interface TranscriptEntry {
  ring: number;
  seq: number;
  kind: number;
  width: number;
  device: number;
  region: number;
  offset: number;
  count: number;
  data: number;
  dataHi: number;
  burst: number;
  reply: number;
  replyHi: number;
  status: number;
  executions: number;
  /** The guest was answered otherwise than the handler said. */
  falsified: boolean;
}

/** Entries of a transcript, ring by ring in order; a hole ends a ring. `bytes`: the file. */
export function* readTranscript(bytes: Uint8Array): Generator<TranscriptEntry> {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >> 2);
  const memory = new Memory(words.buffer as ArrayBuffer, words.byteOffset, words.byteLength);
  const e = view(Entry, memory);
  const rings = Math.floor(bytes.byteLength / transcriptBytes(1));
  for (let ring = 0; ring < rings; ring++)
    for (let seq = 1; seq <= transcriptWire.entries; seq++) {
      e.$root.base = (ring * transcriptWire.entries + seq - 1) * Entry.bytes;
      if (e.seq !== seq) break;
      yield {
        ring,
        seq,
        kind: e.kind,
        width: e.width,
        device: e.device,
        region: e.region,
        offset: e.offset,
        count: e.count,
        data: e.dataLo,
        dataHi: e.dataHi,
        burst: e.burst,
        reply: e.replyLo,
        replyHi: e.replyHi,
        status: e.status,
        executions: e.executions,
        falsified:
          e.audited === 1 &&
          (e.publishedLo !== e.replyLo || e.publishedHi !== e.replyHi || e.publishedStatus !== e.status),
      };
    }
}
