/** Seconds since 1970 to and from the time registers, in their formats (BCD or binary, 12 or 24 hours). */
import { B, Reg } from './regs.ts';

export const toBcd = (v: number): number => (Math.floor(v / 10) << 4) | (v % 10);
export const fromBcd = (v: number): number => (v >>> 4) * 10 + (v & 15);

const encode = (v: number, b: number): number => (b & B.binary ? v : toBcd(v));
export const decode = (v: number, b: number): number => (b & B.binary ? v : fromBcd(v));

export function encodeHour(hour: number, b: number): number {
  if (b & B.hour24) return encode(hour, b);
  return encode(hour % 12 || 12, b) | (hour >= 12 ? 0x80 : 0);
}
export function decodeHour(value: number, b: number): number {
  if (b & B.hour24) return decode(value, b);
  return (decode(value & 0x7f, b) % 12) + (value & 0x80 ? 12 : 0);
}

/** Days since 1970 of a civil date of the Gregorian calendar; month 1..12. Out-of-range days run on. */
function days(year: number, month: number, day: number): number {
  const y = month <= 2 ? year - 1 : year;
  const era = Math.floor(y / 400);
  const yearOfEra = y - era * 400;
  const dayOfYear = Math.floor((153 * (month + (month > 2 ? -3 : 9)) + 2) / 5) + day - 1;
  return (
    era * 146_097 +
    yearOfEra * 365 +
    Math.floor(yearOfEra / 4) -
    Math.floor(yearOfEra / 100) +
    dayOfYear -
    719_468
  );
}

/** The value of one time register (Reg.second .. Reg.year, Reg.century) at a time. */
export function timeRegister(seconds: number, index: number, b: number): number {
  const day = Math.floor(seconds / 86_400);
  const rest = seconds - day * 86_400;
  switch (index) {
    case Reg.second:
      return encode(rest % 60, b);
    case Reg.minute:
      return encode(Math.floor(rest / 60) % 60, b);
    case Reg.hour:
      return encodeHour(Math.floor(rest / 3600), b);
    case Reg.weekday:
      // 1 January 1970 was a Thursday; Sunday is 1.
      return encode(((day + 4) % 7) + 1, b);
  }
  // Civil date from days, eras of 400 years from 1 March of year 0.
  const z = day + 719_468;
  const era = Math.floor(z / 146_097);
  const dayOfEra = z - era * 146_097;
  const yearOfEra = Math.floor(
    (dayOfEra -
      Math.floor(dayOfEra / 1460) +
      Math.floor(dayOfEra / 36_524) -
      Math.floor(dayOfEra / 146_096)) /
      365,
  );
  const dayOfYear = dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100));
  const mp = Math.floor((5 * dayOfYear + 2) / 153);
  const month = mp < 10 ? mp + 3 : mp - 9;
  const year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0);
  switch (index) {
    case Reg.day:
      return encode(dayOfYear - Math.floor((153 * mp + 2) / 5) + 1, b);
    case Reg.month:
      return encode(month, b);
    case Reg.year:
      return encode(year % 100, b);
    default:
      return encode(Math.floor(year / 100) % 100, b);
  }
}

/** The time that the registers tell; never negative, whatever they hold. */
export function timeOf(register: (index: number) => number, b: number): number {
  const year = decode(register(Reg.century), b) * 100 + decode(register(Reg.year), b);
  const month = Math.min(Math.max(decode(register(Reg.month), b), 1), 12);
  const day = days(year, month, decode(register(Reg.day), b));
  const hour = decodeHour(register(Reg.hour), b);
  return Math.max(
    0,
    day * 86_400 + hour * 3600 + decode(register(Reg.minute), b) * 60 + decode(register(Reg.second), b),
  );
}
