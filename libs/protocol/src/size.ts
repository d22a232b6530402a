/** Sizes as users write them. */
import * as z from 'zod/mini';

const units: Record<string, number> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40, P: 2 ** 50 };

/** Bytes of '512M', '4GiB', '1.5 GB' or a number; undefined when it is no size. Units count in 1024. */
export const parseSize = (text: string | number): number | undefined => {
  const m = /^(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:i?B)?$/i.exec(String(text).trim());
  if (!m) return undefined;
  const bytes = Number(m[1]) * units[m[2]!.toUpperCase()]!;
  return Number.isSafeInteger(bytes) ? bytes : undefined;
};

export const size = z.pipe(
  z.union([z.string(), z.number()]),
  z.transform((v, ctx) => {
    const bytes = parseSize(v);
    if (bytes !== undefined) return bytes;
    ctx.issues.push({ code: 'custom', message: 'expected a size such as 512M or 4G', input: v });
    return z.NEVER;
  }),
);
