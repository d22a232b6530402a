/** The six levels, from the most talkative. Their index is what the log ring stores. */
export const levels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'] as const;
export type Level = (typeof levels)[number];

export const isLevel = (text: string): text is Level => (levels as readonly string[]).includes(text);

/**
 * Levels per component, written as `info` or `warn,supervisor=debug,disk0=trace`.
 * @throws Error with code LOG_LEVELS when it is not of that form
 */
export function parseLevels(text: string): { base: Level; byComponent: Map<string, Level> } {
  let base: Level = 'info';
  const byComponent = new Map<string, Level>();
  for (const part of text.split(',').map((p) => p.trim())) {
    if (part === '') continue;
    const [first = '', second] = part.split('=');
    const level = second ?? first;
    if (!isLevel(level) || first === '')
      throw Object.assign(
        new Error(
          `log levels '${text}': '${part}' is neither LEVEL nor COMPONENT=LEVEL; levels: ${levels.join(', ')}`,
        ),
        { code: 'LOG_LEVELS' },
      );
    if (second === undefined) base = level;
    else byComponent.set(first, level);
  }
  return { base, byComponent };
}
