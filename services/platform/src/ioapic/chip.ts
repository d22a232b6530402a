/**
 * I/O APIC (Intel 290566, 82093AA). A pin sends messages to the local APICs: for each rising edge when it is
 * edge-triggered, while it is asserted and not in service when level-triggered. Lines are positive logic here: the
 * polarity bit is kept for who reads it, a device's "asserted" is 1 whatever it says.
 */
import { edgesSince } from '@nyx/device';
import type { View } from '@nyx/layout';
import { Index, type IoapicState, pins, Redirect, version } from './regs.ts';

const apicBase = 0xfee0_0000;
/** MSI data: delivery mode in place, level asserted, level-triggered (SDM 11.11.2). */
const assert = 0x4000;

export class Ioapic {
  constructor(readonly s: View<typeof IoapicState>) {}

  /** Pin has this word now. */
  line(pin: number, word: number): void {
    const { s } = this;
    const seen = s.words.get(pin);
    if (seen === word) return;
    s.words.set(pin, word);
    const low = s.low.get(pin);
    if (low & Redirect.level) this.#service(pin);
    // An edge at a masked pin is lost.
    else if (edgesSince(seen, word) > 0 && !(low & Redirect.masked)) this.#send(pin, low);
  }

  /** A level pin that is asserted, enabled and not in service sends its message. */
  #service(pin: number): void {
    const { s } = this;
    const low = s.low.get(pin);
    if (!(low & Redirect.level) || low & (Redirect.masked | Redirect.remoteIrr) || !(s.words.get(pin) & 1))
      return;
    s.low.set(pin, low | Redirect.remoteIrr);
    this.#send(pin, low);
  }

  #send(pin: number, low: number): void {
    const { s } = this;
    s.address.set(
      pin,
      (apicBase | ((s.high.get(pin) >>> 24) << 12) | (low & Redirect.logical ? 4 : 0)) >>> 0,
    );
    s.data.set(
      pin,
      (low & (Redirect.vector | Redirect.deliveryMode)) |
        (low & Redirect.level ? Redirect.level | assert : 0),
    );
    s.sent.set(pin, (s.sent.get(pin) + 1) >>> 0);
  }

  /** The local APICs ended a level-triggered interrupt; a pin that is still asserted asks again. */
  eoi(vector: number): void {
    const { s } = this;
    for (let pin = 0; pin < pins; pin++) {
      const low = s.low.get(pin);
      if ((low & Redirect.vector) !== vector || !(low & Redirect.remoteIrr)) continue;
      s.low.set(pin, low & ~Redirect.remoteIrr);
      this.#service(pin);
    }
  }

  read(index: number): number {
    const { s } = this;
    if (index === Index.id || index === Index.arbitration) return s.id << 24;
    if (index === Index.version) return version | ((pins - 1) << 16);
    const pin = (index - Index.redirection) >> 1;
    if (pin < 0 || pin >= pins) return 0;
    return index & 1 ? s.high.get(pin) : s.low.get(pin);
  }

  write(index: number, value: number): void {
    const { s } = this;
    if (index === Index.id) s.id = (value >>> 24) & 15;
    const pin = (index - Index.redirection) >> 1;
    if (pin < 0 || pin >= pins) return;
    if (index & 1) {
      s.high.set(pin, value);
      return;
    }
    let low = (value & Redirect.writable) | (s.low.get(pin) & Redirect.remoteIrr);
    // Remote IRR has no meaning for edges; switching to edge and back is how software clears a stuck one.
    if (!(low & Redirect.level)) low &= ~Redirect.remoteIrr;
    s.low.set(pin, low);
    this.#service(pin);
  }
}
