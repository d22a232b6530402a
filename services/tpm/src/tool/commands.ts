/** What `nyx tpm` does with a state, of a machine or at rest: looks at a copy of it, makes one, empties one. */
import { existsSync, readFileSync, rmSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { close, memfdCreate } from '@nyx/native';
import { tpmWire } from '@nyx/protocol';
import { execute } from '../core/dispatch.ts';
import { nvKind } from '../core/nv.ts';
import { MemoryStore } from '../core/store.ts';
import { Tpm } from '../core/tpm.ts';
import { LocalCa } from '../manufacture/ca.ts';
import { manufacture } from '../manufacture/manufacture.ts';
import { hashes } from '../spec/algorithms.ts';
import { ALG, CAP, RC, RH, SU } from '../spec/constants.ts';
import { commandBytes, rcOf } from '../spec/message.ts';
import { FileStore, readKeyFile, StoreError } from '../store/file.ts';

export interface StateOptions {
  /** State directory, or the state itself. */
  path: string;
  /** Key file. */
  key?: string;
  /** Directory of the local CA that certifies a new TPM's endorsement keys. */
  ca?: string;
}

const fileOf = (path: string): string =>
  statSync(path, { throwIfNoEntry: false })?.isDirectory() === false ? path : join(path, tpmWire.stateFile);
const keyOf = (o: StateOptions): { key?: Buffer } => (o.key === undefined ? {} : { key: readKeyFile(o.key) });

/**
 * A TPM over a copy of the state: it goes on where the other one is, and nothing that it does is seen by anybody. The other one
 * may be at work: what is read while it writes may be half of it, and is read again.
 */
function copy(o: StateOptions, tries = 5): { tpm: Tpm; encrypted: boolean } {
  const bytes = readFileSync(fileOf(o.path));
  const fd = memfdCreate('tpm-copy', bytes.length);
  try {
    writeSync(fd, bytes, 0, bytes.length, 0);
    const store = new MemoryStore();
    store.commit(new FileStore(fd, keyOf(o)).load());
    const tpm = new Tpm({ store, crashOnly: true, resume: true, now: () => 0 });
    return { tpm, encrypted: o.key !== undefined };
  } catch (e) {
    if (tries > 1 && (e as { code?: string }).code === 'TPM_STATE_CORRUPT') return copy(o, tries - 1);
    throw e;
  } finally {
    close(fd);
  }
}

const hex = (n: number): string => `0x${n.toString(16).padStart(8, '0')}`;
const PT_FIXED = 0x100;

/** Fixed properties: values by number. */
function properties(tpm: Tpm): Map<number, number> {
  if (!tpm.started) execute(tpm, commandBytes('Startup', { startupType: SU.CLEAR }));
  const { TPM_PROPERTIES } = CAP;
  const r = execute(
    tpm,
    commandBytes('GetCapability', { capability: TPM_PROPERTIES, property: PT_FIXED, propertyCount: 64 }),
  );
  if (rcOf(r) !== RC.SUCCESS) return new Map();
  // moreData, capability, count; then property and value of each.
  return new Map(
    Array.from({ length: r.readUInt32BE(15) }, (_, i) => [
      r.readUInt32BE(19 + 8 * i),
      r.readUInt32BE(23 + 8 * i),
    ]),
  );
}
const text = (...words: (number | undefined)[]): string =>
  Buffer.from(words.flatMap((w = 0) => [w >>> 24, (w >>> 16) & 255, (w >>> 8) & 255, w & 255]))
    .toString('latin1')
    .replace(/\0/g, '')
    .trim();

const objectType: Record<number, string> = {
  [ALG.RSA]: 'RSA',
  [ALG.ECC]: 'ECC',
  [ALG.KEYEDHASH]: 'keyed hash',
  [ALG.SYMCIPHER]: 'symmetric key',
};
const nvTypes: Record<number, string> = {
  0: 'data',
  1: 'counter',
  2: 'bits',
  4: 'extend',
  8: 'PIN fail',
  9: 'PIN pass',
};

/** What the TPM is and holds; no secret is in it. */
export function info(o: StateOptions): unknown {
  const { tpm, encrypted } = copy(o);
  const { started, failed } = tpm;
  const p = tpm.persistent;
  const out = {
    started,
    failed,
    encrypted,
    resets: { total: Number(p.totalResetCount), sinceClear: p.resetCount, restarts: tpm.reset.restartCount },
    clockMs: Number(tpm.clock.now64()),
    clockSafe: tpm.clock.safe === 1,
    authSet: {
      owner: p.owner.auth.length > 0,
      endorsement: p.endorsement.auth.length > 0,
      lockout: p.lockout.auth.length > 0,
    },
    lockout: {
      failedTries: p.failedTries,
      maxTries: p.maxTries,
      recoverySeconds: p.recoveryTime,
      lockoutRecoverySeconds: p.lockoutRecovery,
      locked: p.failedTries >= p.maxTries,
    },
    banks: hashes.filter((h) => tpm.pcrs.banks.has(h.alg)).map((h) => h.name),
    nv: [...tpm.nv].map(([handle, { pub }]) => ({
      handle: hex(handle),
      type: nvTypes[nvKind(pub.attributes)] ?? 'unknown',
      bytes: pub.dataSize,
      attributes: hex(pub.attributes),
    })),
    persistent: [...tpm.evicted].map(([handle, object]) => ({
      handle: hex(handle),
      type: objectType[object.pub.type] ?? 'unknown',
      bits: object.pub.type === ALG.RSA ? object.pub.parameters.keyBits : undefined,
    })),
    transient: tpm.objects.filter((x) => x !== undefined).length,
    sessions: tpm.sessions.size,
  };
  const v = properties(tpm);
  return {
    family: text(v.get(0x100)),
    level: v.get(0x101),
    revision: (v.get(0x102) ?? 0) / 100,
    manufacturer: text(v.get(0x105)),
    vendor: text(v.get(0x106), v.get(0x107), v.get(0x108), v.get(0x109)),
    firmware: `${hex(v.get(0x10b) ?? 0)} ${hex(v.get(0x10c) ?? 0)}`,
    ...out,
  };
}

/** PCRs by bank, as hexadecimal digits; undefined where a bank lacks one. */
export function pcrs(o: StateOptions): unknown {
  const { tpm } = copy(o);
  const banks = hashes.flatMap(({ name, alg }) => {
    const values = tpm.pcrs.banks.get(alg);
    return values ? [[name, values.map((x) => x?.toString('hex') ?? null)] as const] : [];
  });
  return { started: tpm.started, banks: Object.fromEntries(banks) };
}

/** Makes the state of a new TPM. @throws StoreError when there is one */
export function init(o: StateOptions): unknown {
  if (existsSync(fileOf(o.path))) throw new StoreError('TPM_STATE', `there is a TPM in ${o.path} already`);
  return make(o);
}

function make(o: StateOptions): unknown {
  const store = FileStore.open(o.path, keyOf(o));
  try {
    if (o.ca === undefined) new Tpm({ store });
    else manufacture(store, LocalCa.open(o.ca));
  } finally {
    store.close();
  }
  return info(o);
}

/** A new TPM in the place of the old one: other seeds, so that nothing of the old one can ever be loaded again. */
export function reset(o: StateOptions): unknown {
  // Only who has the key, or needs none, and only while nobody uses it.
  FileStore.open(o.path, keyOf(o)).close();
  rmSync(fileOf(o.path));
  return make(o);
}

/** TPM2_Clear with platform authorization, as firmware does it on its owner's wish: with power on, Startup, Shutdown. */
export function clear(o: StateOptions): unknown {
  const store = FileStore.open(o.path, keyOf(o));
  try {
    const tpm = new Tpm({ store });
    for (const c of [
      commandBytes('Startup', { startupType: SU.CLEAR }),
      commandBytes('ClearControl', { auth: RH.PLATFORM, disable: 0 }),
      commandBytes('Clear', { authHandle: RH.PLATFORM }),
      commandBytes('Shutdown', { shutdownType: SU.CLEAR }),
    ]) {
      const rc = rcOf(execute(tpm, c));
      if (rc !== RC.SUCCESS) throw new StoreError('TPM_STATE', `the TPM refuses (${hex(rc)})`);
    }
  } finally {
    store.close();
  }
  return info(o);
}
