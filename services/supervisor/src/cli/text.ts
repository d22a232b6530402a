/** How commands draw: columns, units, colours where there is a terminal. */
const colour = process.stdout.isTTY && !process.env.NO_COLOR;
const paint =
  (code: number) =>
  (s: string): string =>
    colour ? `\x1b[${code}m${s}\x1b[0m` : s;
export const bold = paint(1);
export const dim = paint(2);
export const red = paint(31);
export const green = paint(32);
export const yellow = paint(33);
export const blue = paint(34);
export const magenta = paint(35);

// biome-ignore lint/suspicious/noControlCharactersInRegex: colours have no width.
const bare = (s: string): string => s.replace(/\x1b\[\d+m/g, '');
const padTo = (s: string, n: number, right: boolean): string => {
  const fill = ' '.repeat(Math.max(0, n - bare(s).length));
  return right ? fill + s : s + fill;
};

/** The first `width` signs of a line. */
export const cut = (s: string, width: number): string => {
  if (bare(s).length <= width) return s;
  let left = width;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: colours have no width.
  return s.replace(/(\x1b\[\d+m)|[^\x1b]/g, (sign, colour) => (colour || left-- > 0 ? sign : ''));
};

/** Rows in columns; `right`: columns that are numbers. */
export const columns = (rows: readonly (readonly string[])[], right: readonly number[] = []): string => {
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((r) => bare(r[i] ?? '').length)));
  return rows
    .map((r) =>
      r
        .map((c, i) => padTo(c, widths[i]!, right.includes(i)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
};

/** A frame around lines, with a title in it. */
export const box = (title: string, lines: readonly string[]): string => {
  const width = Math.max(bare(title).length + 2, ...lines.map((l) => bare(l).length));
  return [
    `┌ ${bold(title)} ${'─'.repeat(width - bare(title).length)}┐`,
    ...lines.map((l) => `│ ${padTo(l, width, false)} │`),
    `└${'─'.repeat(width + 2)}┘`,
  ].join('\n');
};

export const bytes = (n: number): string => {
  if (n >= 2 ** 30 && n % 2 ** 28 === 0) return `${n / 2 ** 30} GiB`;
  return n >= 2 ** 20 ? `${Math.round(n / 2 ** 20)} MiB` : `${Math.round(n / 1024)} KiB`;
};

export const short = (n: number): string => {
  for (const [unit, size] of [
    ['G', 1e9],
    ['M', 1e6],
    ['k', 1e3],
  ] as const)
    if (n >= size) return `${(n / size).toFixed(n >= 100 * size ? 0 : 1)} ${unit}`;
  return n.toFixed(n > 0 && n < 10 ? 1 : 0);
};

/** A duration given in nanoseconds. */
export const duration = (ns: number): string => {
  if (ns < 1e3) return `${Math.round(ns)} ns`;
  if (ns < 1e6) return `${(ns / 1e3).toFixed(1)} us`;
  if (ns < 1e9) return `${(ns / 1e6).toFixed(1)} ms`;
  const s = ns / 1e9;
  if (s < 60) return `${s.toFixed(1)} s`;
  const m = Math.floor(s / 60);
  return m < 60 ? `${m} min ${Math.floor(s % 60)} s` : `${Math.floor(m / 60)} h ${m % 60} min`;
};

export const print = (s: string): void => {
  progressEnds();
  process.stdout.write(`${s}\n`);
};
export const note = (s: string): void => {
  progressEnds();
  process.stderr.write(`${s}\n`);
};

let shown = '';
const progressEnds = (): void => {
  if (shown && process.stderr.isTTY) process.stderr.write('\n');
  shown = '';
};
/**
 * A step that takes time: a line with a bar that grows on a terminal, each step once elsewhere. The next `note` or
 * `print` ends it.
 * @param fraction 0..1 of the step, when known
 */
export const progress = (message: string, fraction?: number): void => {
  if (process.stderr.isTTY) {
    const done = fraction === undefined ? '' : `${'█'.repeat(Math.round(fraction * 20)).padEnd(20, '░')} `;
    const line = `${done}${message}`.slice(0, (process.stderr.columns || 80) - 1);
    process.stderr.write(`${shown && message !== shown ? '\n' : ''}\r\x1b[K${line}`);
  } else if (message !== shown) process.stderr.write(`${message}\n`);
  shown = message;
};
