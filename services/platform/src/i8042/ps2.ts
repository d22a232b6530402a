/** A PS/2 keyboard and a PS/2 mouse: what they answer. (IBM PS/2 Hardware Interface Technical Reference, keyboard and mouse.) */
import type { View } from '@nyx/layout';
import { type Ps2State, queueSize } from './regs.ts';

export type Ps2 = View<typeof Ps2State>;

export const Reply = { ack: 0xfa, resend: 0xfe, passed: 0xaa, echo: 0xee } as const;

/** Queues a byte for the controller; a full queue drops it. */
export function send(d: Ps2, ...bytes: readonly number[]): void {
  for (const byte of bytes) {
    if (d.count === queueSize) return;
    d.queue.set((d.head + d.count) % queueSize, byte);
    d.count++;
  }
}

export function take(d: Ps2): number {
  const byte = d.queue.get(d.head);
  d.head = (d.head + 1) % queueSize;
  d.count--;
  d.last = byte;
  return byte;
}

const flush = (d: Ps2): void => {
  d.head = 0;
  d.count = 0;
};

function keyboardDefaults(d: Ps2): void {
  d.rate = 0x2b;
  d.set = 2;
  d.leds = 0;
}

/** @param translated the controller translates to set 1, so the identity is told translated too */
export function keyboardCommand(d: Ps2, byte: number, translated: boolean): void {
  const command = d.pending;
  d.pending = 0;
  if (command !== 0 && byte < 0x80) {
    if (command === 0xed) d.leds = byte;
    else if (command === 0xf3) d.rate = byte;
    else if (command === 0xf0 && byte === 0) {
      send(d, Reply.ack, translated ? ([0x43, 0x41, 0x3f][d.set - 1] ?? 0x41) : d.set);
      return;
    } else if (command === 0xf0 && byte <= 3) d.set = byte;
    else {
      send(d, Reply.resend);
      return;
    }
    send(d, Reply.ack);
    return;
  }
  switch (byte) {
    case 0xed:
    case 0xf0:
    case 0xf3:
      d.pending = byte;
      send(d, Reply.ack);
      break;
    case 0xee:
      send(d, Reply.echo);
      break;
    case 0xf2:
      send(d, Reply.ack, 0xab, translated ? 0x41 : 0x83);
      break;
    case 0xf4:
      d.enabled = 1;
      flush(d);
      send(d, Reply.ack);
      break;
    case 0xf5:
    case 0xf6:
      keyboardDefaults(d);
      d.enabled = byte === 0xf6 ? 1 : 0;
      flush(d);
      send(d, Reply.ack);
      break;
    case 0xfe:
      send(d, d.last);
      break;
    case 0xff:
      keyboardDefaults(d);
      d.enabled = 1;
      flush(d);
      send(d, Reply.ack, Reply.passed);
      break;
    default:
      // Set 3 key modes: accepted, without a set 3.
      send(d, byte >= 0xf7 && byte <= 0xfd ? Reply.ack : Reply.resend);
  }
}

function mouseDefaults(d: Ps2): void {
  d.rate = 100;
  d.resolution = 2;
  d.scaling = 0;
  d.enabled = 0;
  d.remote = 0;
  d.wrap = 0;
}

export function mouseCommand(d: Ps2, byte: number): void {
  if (d.wrap && byte !== 0xff && byte !== 0xec) {
    send(d, byte);
    return;
  }
  const command = d.pending;
  d.pending = 0;
  if (command === 0xf3 || command === 0xe8) {
    if (command === 0xf3) d.rate = byte;
    else d.resolution = byte & 3;
    send(d, Reply.ack);
    return;
  }
  switch (byte) {
    case 0xe6:
    case 0xe7:
      d.scaling = byte & 1;
      break;
    case 0xe8:
    case 0xf3:
      d.pending = byte;
      break;
    case 0xe9:
      send(d, Reply.ack, (d.remote << 6) | (d.enabled << 5) | (d.scaling << 4), d.resolution, d.rate);
      return;
    case 0xea:
      d.remote = 0;
      break;
    case 0xeb:
      send(d, Reply.ack, 0x08, 0, 0);
      return;
    case 0xec:
      d.wrap = 0;
      break;
    case 0xee:
      d.wrap = 1;
      break;
    case 0xf0:
      d.remote = 1;
      break;
    case 0xf2:
      // A standard mouse with two buttons.
      send(d, Reply.ack, 0x00);
      return;
    case 0xf4:
      d.enabled = 1;
      break;
    case 0xf5:
      d.enabled = 0;
      break;
    case 0xf6:
      mouseDefaults(d);
      break;
    case 0xfe:
      send(d, d.last);
      return;
    case 0xff:
      mouseDefaults(d);
      flush(d);
      send(d, Reply.ack, Reply.passed, 0x00);
      return;
    default:
      send(d, Reply.resend);
      return;
  }
  send(d, Reply.ack);
}
