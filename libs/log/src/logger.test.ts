import { expect, test } from 'vitest';
import { parseLevels } from './levels.ts';
import { Logs } from './logger.ts';

const collect = (levels?: string) => {
  const lines: Record<string, unknown>[] = [];
  const destination = { write: (line: string) => void lines.push(JSON.parse(line)) };
  return {
    logs: new Logs({ ...(levels === undefined ? {} : { levels }), destination, base: { vm: 'a' } }),
    lines,
  };
};

test('a component logs from its own level on', () => {
  const { logs, lines } = collect('warn,disk0=trace');
  logs.logger('disk0').trace('detail');
  logs.logger('net0').info('hidden');
  logs.logger('net0').fatal({ code: 'X' }, 'shown');
  expect(lines.map(({ time, ...rest }) => rest)).toEqual([
    { level: 'trace', vm: 'a', component: 'disk0', msg: 'detail' },
    { level: 'fatal', vm: 'a', component: 'net0', code: 'X', msg: 'shown' },
  ]);
});

test('levels change while the process runs', () => {
  const { logs, lines } = collect();
  const logger = logs.logger('c');
  logger.debug('1');
  logs.setLevel('debug', 'c');
  logger.debug('2');
  logs.setLevel('error');
  logger.warn('3');
  logger.error('4');
  expect(lines.map((l) => l.msg)).toEqual(['2', '4']);
});

test('records of a log ring are passed on with their level', () => {
  const { logs, lines } = collect();
  logs.forward('platform', [
    { seq: 9, level: 'warn', component: 'rtc', text: 'odd', truncated: false, hostMs: 5, guestNs: 6 },
  ]);
  expect(lines[0]).toMatchObject({
    level: 'warn',
    component: 'platform',
    device: 'rtc',
    msg: 'odd',
    seq: 9,
    guestNs: 6,
  });
});

test('levels that do not exist are refused with a code', () => {
  expect(() => parseLevels('loud')).toThrow(expect.objectContaining({ code: 'LOG_LEVELS' }));
  expect(() => parseLevels('info,=debug')).toThrow(expect.objectContaining({ code: 'LOG_LEVELS' }));
});
