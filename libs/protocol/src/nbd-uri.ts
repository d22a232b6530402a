/** Addresses of network block devices (NetworkBlockDevice/nbd, doc/uri.md): `nbd://host:port/export`, `nbd+unix:///export?socket=path`. */

export interface NbdAddress {
  /** Where to connect to. */
  at: { host: string; port: number } | { path: string };
  exportName: string;
}

const PORT = 10809;

/** Undefined when it is no such address. */
export function parseNbdUri(text: string): NbdAddress | undefined {
  let uri: URL;
  try {
    uri = new URL(text);
  } catch {
    return undefined;
  }
  const exportName = decodeURIComponent(uri.pathname.replace(/^\//, ''));
  if (uri.protocol === 'nbd+unix:') {
    const path = uri.searchParams.get('socket');
    return path?.startsWith('/') ? { at: { path }, exportName } : undefined;
  }
  if (uri.protocol !== 'nbd:' || uri.hostname === '') return undefined;
  const host = uri.hostname.replace(/^\[|\]$/g, '');
  return { at: { host, port: uri.port === '' ? PORT : Number(uri.port) }, exportName };
}

export const isNbdUri = (text: string): boolean => /^nbd(\+unix)?:/.test(text);
