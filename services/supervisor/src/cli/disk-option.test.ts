import { expect, it } from 'vitest';
import { parseDisk } from './disk-option.ts';

const parse = (text: string) => parseDisk(text, (p) => `/here/${p}`);

it('a file and what is said of it', () => {
  expect(parse('root.img')).toEqual({ path: '/here/root.img', readonly: false });
  expect(parse('a,b.img:ro')).toEqual({ path: '/here/a,b.img', readonly: true });
  expect(parse('d.vhdx,format=vhdx,bus=ahci,werror=stop,rerror=ignore,serial=x')).toEqual({
    path: '/here/d.vhdx',
    readonly: false,
    format: 'vhdx',
    bus: 'ahci',
    werror: 'stop',
    rerror: 'ignore',
    serial: 'x',
  });
  expect(parse('d,throttle.iops-total=100,throttling.bps-read-max=4096')).toMatchObject({
    throttle: { 'iops-total': 100, 'bps-read-max': 4096 },
  });
  expect(parse('d,cache.direct=on,reconnect-delay=5')).toMatchObject({ direct: true, reconnectDelay: 5 });
  expect(parse('null-co://,size=1G')).toEqual({ path: 'null-co://', readonly: false, size: '1G' });
});
it('what is wrong is told with what is right', () => {
  expect(() => parse('d,formt=raw')).toThrow(/formt/);
  expect(() => parse('d,format=vmdk')).toThrow(/vmdk/);
  expect(() => parse('d,werror=maybe')).toThrow(/maybe/);
  expect(() => parse('d,throttle.iops=7')).toThrow(/throttle.iops/);
  expect(() => parse('d,throttle.iops-total=much')).toThrow(/much/);
});
