/**
 * Answers of a CD drive whose content follows from the medium alone (MMC-5, SPC-3): as functions of what is in the drive.
 * All give the whole answer; the caller cuts it to the allocation length.
 */
import { firmware, model } from './identify.ts';
import { MediaEvent } from './sense.ts';

/** Bytes of a sector. */
export const sectorBytes = 2048;

/** What is in the drive. */
export interface Medium {
  /** Sectors of 2048 bytes; 0: no medium that can be read. */
  sectors: number;
  trayOpen: boolean;
  locked: boolean;
}

/** Longer than 80 minutes: it must be a DVD. */
const mostCdSectors = 80 * 60 * 75;
export const Profile = { none: 0, cd: 0x08, dvd: 0x10 } as const;
export const profileOf = (m: Medium): number =>
  m.sectors === 0 ? Profile.none : m.sectors > mostCdSectors ? Profile.dvd : Profile.cd;

/** Appends big-endian numbers. transient: lives as long as one answer is made. */
class Answer {
  readonly bytes: number[] = [];
  put(...values: number[]): this {
    this.bytes.push(...values.map((v) => v & 0xff));
    return this;
  }
  be16(value: number): this {
    return this.put(value >>> 8, value);
  }
  be32(value: number): this {
    return this.put(value >>> 24, value >>> 16, value >>> 8, value);
  }
  text(value: string, length: number): this {
    for (let i = 0; i < length; i++) this.put(i < value.length ? value.charCodeAt(i) : 0x20);
    return this;
  }
  zeros(count: number): this {
    for (let i = 0; i < count; i++) this.bytes.push(0);
    return this;
  }
  /** With the number of bytes behind it in front, 16 bits. */
  counted(): Uint8Array {
    const n = this.bytes.length;
    return Uint8Array.from([n >>> 8, n & 0xff, ...this.bytes]);
  }
  done(): Uint8Array {
    return Uint8Array.from(this.bytes);
  }
}
const answer = (): Answer => new Answer();

const vendor = 'NYX';

/** SPC-3 6.4: CD/DVD device, removable, SPC-3. */
export const inquiry = (): Uint8Array =>
  answer()
    .put(0x05, 0x80, 0x05, 0x02, 31, 0, 0, 0)
    .text(vendor, 8)
    .text(model.cd, 16)
    .text(firmware, 4)
    .done();

/** SPC-3 7.6, vital product data; undefined: no such page. */
export function vitalData(page: number, serial: string): Uint8Array | undefined {
  switch (page) {
    case 0x00:
      return answer().put(5, 0, 0, 3, 0x00, 0x80, 0x83).done();
    case 0x80:
      return answer().put(5, 0x80, 0, serial.length).text(serial, serial.length).done();
    case 0x83: {
      // One designator: T10 vendor identification, ASCII.
      const length = 8 + serial.length;
      return answer()
        .put(5, 0x83, 0, 4 + length, 2, 1, 0, length)
        .text(vendor, 8)
        .text(serial, serial.length)
        .done();
    }
    default:
      return undefined;
  }
}

/** SPC-3 4.5.3, fixed format. */
export const senseData = (sense: number): Uint8Array =>
  answer()
    .put(0x70, 0, sense >>> 16, 0, 0, 0, 0, 10, 0, 0, 0, 0, sense >>> 8, sense, 0, 0, 0, 0)
    .done();

export const capacity = (m: Medium): Uint8Array =>
  answer()
    .be32(m.sectors - 1)
    .be32(sectorBytes)
    .done();

/** Minutes, seconds, frames; two seconds lie before sector 0. */
const msf = (sector: number): [number, number, number] => {
  // Longer than the field can tell: its end (MMC-5 6.30.2.2).
  const n = Math.min(sector + 150, 256 * 4500 - 1);
  return [Math.floor(n / 4500), Math.floor(n / 75) % 60, n % 75];
};
const address = (a: Answer, sector: number, asTime: boolean): Answer =>
  asTime ? a.put(0, ...msf(sector)) : a.be32(sector);

/** MMC-5 6.30: one data track in one session. Undefined: no such format or track. */
export function toc(m: Medium, format: number, asTime: boolean, start: number): Uint8Array | undefined {
  const leadOut = 0xaa;
  switch (format) {
    case 0: {
      if (start > 1 && start !== leadOut) return undefined;
      const a = answer().put(1, 1);
      if (start <= 1) address(a.put(0, 0x14, 1, 0), 0, asTime);
      return address(a.put(0, 0x14, leadOut, 0), m.sectors, asTime).counted();
    }
    case 1:
      return address(answer().put(1, 1, 0, 0x14, 1, 0), 0, asTime).counted();
    case 2: {
      const a = answer().put(1, 1);
      const entry = (point: number, p: readonly [number, number, number]): Answer =>
        a.put(1, 0x14, 0, point, 0, 0, 0, 0, ...p);
      entry(0xa0, [1, 0, 0]);
      entry(0xa1, [1, 0, 0]);
      entry(0xa2, msf(m.sectors));
      entry(1, msf(0));
      return a.counted();
    }
    default:
      return undefined;
  }
}

interface Feature {
  code: number;
  version?: number;
  persistent?: boolean;
  current: boolean;
  data: number[];
}

/** MMC-5 chapter 5. */
const features = (m: Medium): Feature[] => {
  const profile = profileOf(m);
  const [cd, dvd] = [profile === Profile.cd, profile === Profile.dvd];
  return [
    {
      code: 0x0000,
      persistent: true,
      current: true,
      data: [0, Profile.dvd, dvd ? 1 : 0, 0, 0, Profile.cd, cd ? 1 : 0, 0],
    },
    // Core: ATAPI; INQUIRY2 no, DBE no.
    { code: 0x0001, version: 2, persistent: true, current: true, data: [0, 0, 0, 2, 0, 0, 0, 0] },
    // Morphing: polled events, no OCEvent.
    { code: 0x0002, version: 1, persistent: true, current: true, data: [0, 0, 0, 0] },
    // Removable medium: tray, ejects, locks.
    { code: 0x0003, version: 0, persistent: true, current: true, data: [0x29, 0, 0, 0] },
    {
      code: 0x0010,
      current: cd || dvd,
      data: [0, 0, sectorBytes >>> 8, sectorBytes & 0xff, 0, 1, 0, 0],
    },
    // CD read: without C2 and CD-Text.
    { code: 0x001e, version: 2, current: cd, data: [0, 0, 0, 0] },
    { code: 0x001f, version: 0, current: dvd, data: [] },
    { code: 0x0100, persistent: true, current: true, data: [] },
    { code: 0x0105, version: 1, persistent: true, current: true, data: [0, 0, 0, 0] },
  ];
};

/** MMC-5 6.6. `request`: 0 all from `start` on, 1 those that are current, 2 that one. Undefined: reserved. */
export function configuration(m: Medium, request: number, start: number): Uint8Array | undefined {
  if (request > 2) return undefined;
  const a = answer().be16(0).be16(profileOf(m));
  for (const f of features(m)) {
    if (request === 2 ? f.code !== start : f.code < start) continue;
    if (request === 1 && !f.current) continue;
    const flags = ((f.version ?? 0) << 2) | (f.persistent ? 2 : 0) | (f.current ? 1 : 0);
    a.be16(f.code).put(flags, f.data.length, ...f.data);
  }
  return Uint8Array.from([0, 0, a.bytes.length >>> 8, a.bytes.length & 0xff, ...a.bytes]);
}

/** MMC-5 6.7, classes asked for as bits: only media events are known. */
export function eventStatus(m: Medium, classes: number, event: number): Uint8Array {
  const media = 1 << 4;
  if (!(classes & media)) return answer().put(0, 2, 0x80, media).done();
  const status = (m.trayOpen ? 1 : 0) | (m.sectors > 0 ? 2 : 0);
  return answer().put(0, 6, 4, media, event, status, 0, 0).done();
}

type Page = (m: Medium) => number[];
/** Mode pages (MMC-5 chapter 7), by code. Nothing in them can be changed. */
const pages: Readonly<Record<number, Page>> = {
  // Read error recovery: no retries are ours.
  1: () => [0x01, 0x0a, 0x00, 0x00, 0, 0, 0, 0, 0, 0, 0, 0],
  // Timeout and protect.
  29: () => [0x1d, 0x0a, 0, 0, 0, 0, 0, 0x64, 0, 0x64, 0, 0],
  // Capabilities and mechanical status (MMC-3 6.3.11): reads CD-R, CD-RW, DVD; a tray that ejects and locks.
  42: (m) => [
    0x2a,
    0x14,
    0x3b,
    0x00,
    0x70,
    0x00,
    m.locked ? 0x2b : 0x29,
    0x00,
    0x16,
    0x10,
    0x00,
    0x00,
    0x02,
    0x00,
    0x16,
    0x10,
    0x00,
    0x00,
    0x00,
    0x00,
    0x00,
    0x00,
  ],
};

/** MODE SENSE (10), SPC-3 6.10. `control`: 0 current, 1 changeable, 2 default. Undefined: no such page. */
export function modeSense(m: Medium, page: number, control: number): Uint8Array | undefined {
  const codes = page === 0x3f ? Object.keys(pages).map(Number) : pages[page] ? [page] : [];
  if (codes.length === 0) return undefined;
  const a = answer().zeros(6);
  for (const code of codes) {
    const bytes = pages[code]!(m);
    a.put(...(control === 1 ? bytes.map((b, i) => (i < 2 ? b : 0)) : bytes));
  }
  return a.counted();
}

/** MMC-5 6.22, standard: finalized, one session, one track. */
export const discInformation = (): Uint8Array =>
  answer()
    .put(0x0e, 1, 1, 1, 1, 0x20, 0, 0, 0, 0)
    .zeros(4)
    .be32(0xffff_ffff)
    .be32(0xffff_ffff)
    .zeros(8)
    .zeros(2)
    .counted();

/** MMC-5 6.27: the track of that number, or with that sector. Undefined: none. */
export function trackInformation(m: Medium, byNumber: boolean, which: number): Uint8Array | undefined {
  if (byNumber ? which !== 1 : which >= m.sectors) return undefined;
  return answer()
    .put(1, 1, 0, 0x04, 0x01, 0)
    .be32(0)
    .be32(0)
    .be32(0)
    .be32(0)
    .be32(m.sectors)
    .be32(0)
    .put(0, 0, 0, 0)
    .counted();
}

/** MMC-5 6.12: a tray, open or not; no changer. */
export const mechanism = (m: Medium): Uint8Array =>
  answer()
    .put(0, m.trayOpen ? 0x10 : 0, 0, 0, 0, 0, 0, 0)
    .done();

/** MMC-5 6.23, formats of a DVD: physical format, copyright, manufacturing. Undefined: not of this medium. */
export function discStructure(m: Medium, format: number): Uint8Array | undefined {
  const last = 0x30000 + m.sectors - 1;
  switch (format) {
    case 0x00:
      // Book DVD-ROM, 120 mm, maximum rate; one layer of embossed data.
      return sized(answer().put(0x01, 0x0f, 0x01, 0x00).be32(0x30000).be32(last).be32(0).zeros(2032));
    case 0x01:
      return sized(answer().zeros(4));
    case 0x04:
      return sized(answer().zeros(2048));
    default:
      return undefined;
  }
}
/** Length of what follows, and two reserved bytes, in front. */
const sized = (a: Answer): Uint8Array => {
  const n = a.bytes.length + 2;
  return Uint8Array.from([n >>> 8, n & 0xff, 0, 0, ...a.bytes]);
};

/** The event that a change of the medium is. */
export const eventOf = (present: boolean): number => (present ? MediaEvent.newMedia : MediaEvent.removal);
