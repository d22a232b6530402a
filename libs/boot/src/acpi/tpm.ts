/**
 * The TPM in the ACPI name space: its device, and the physical presence interface through which an operating system asks
 * firmware to do what only firmware may, like TPM2_Clear (TCG PC Client Platform Physical Presence Interface 1.30), or to clear memory at
 * the next start (TCG Platform Reset Attack Mitigation). Firmware and this code share a page of memory, whose layout and place are those
 * of QEMU (docs/specs/tpm.rst), which OVMF knows (SeaBIOS 1.16 has no physical presence).
 */
import { pc } from '../e820.ts';
import {
  type Aml,
  arg,
  buffer,
  call,
  device,
  element,
  equal,
  less,
  local,
  memoryFields,
  method,
  name,
  not,
  otherwise,
  path,
  pkg,
  place,
  plus,
  ret,
  store,
  uuid,
  when,
} from './aml.ts';
import { memory32, resources } from './resources.ts';

export const tpmRegisterBytes = 0x5000;

/** The page: offsets; all little-endian, of 4 bytes but where said. */
export const ppi = {
  address: pc.tpm + tpmRegisterBytes,
  bytes: 0x400,
  /** What firmware does for each of 256 operations: a byte each (`PpiFunction`). */
  functions: 0,
  /** 1 byte: firmware has set the page up. */
  ready: 0x100,
  /** Result of the last operation. */
  response: 0x105,
  /** Operation that waits for the next start, and its parameter. */
  request: 0x109,
  parameter: 0x10d,
  /** The last operation. */
  last: 0x111,
  /** 1 byte: memory is to be cleared at the next start. */
  overwrite: 0x15a,
} as const;

/** Confirmation of the user status (PPI 1.30, table 11). */
export const PpiFunction = { none: 0, firmwareOnly: 1, blocked: 2, confirmed: 3, allowed: 4 } as const;

/** Operations that all come to TPM2_Clear: Clear, and what of TPM 1.2 has it in it (PPI 1.30, table 2). */
export const ppiClears: readonly number[] = [5, 14, 21, 22];

/** fw_cfg file `etc/tpm/config`: address of the page, version of the TPM (2: 2.0), of the interface (1: 1.30). */
export function tpmConfig(): Uint8Array {
  const out = new Uint8Array(6);
  new DataView(out.buffer).setUint32(0, ppi.address, true);
  out[4] = 2;
  out[5] = 1;
  return out;
}

const byFunction = (cases: Record<number, Aml[]>): Aml[] =>
  Object.entries(cases).map(([n, body]) => when(equal(arg(2), Number(n)), ...body));

/** Fills the values in a package that a method returns; its first one stays 0: success. */
const answer = (packageName: string, ...values: string[]): Aml[] => [
  ...values.map((v, i) => store(path(v), place(path(packageName), i + 1))),
  ret(path(packageName)),
];

/** PPI 1.30, section 2.1. */
const presence = (): Aml[] =>
  byFunction({
    0: [ret(buffer([0xff, 0x01]))],
    1: [ret('1.3')],
    // Submit: not supported, or general failure.
    2: [
      store(call('TPRQ', element(arg(3), 0), 0), local(0)),
      when(equal(local(0), 3), ret(2)),
      ret(local(0)),
    ],
    3: [when(equal(arg(1), 1), ...answer('PPK2', 'PPRQ')), ...answer('PPK3', 'PPRQ', 'PPRM')],
    // How an operation gets its turn: reboot.
    4: [ret(2)],
    5: answer('PPK5', 'LPPR', 'PPRP'),
    // The language of the user: not implemented.
    6: [ret(3)],
    7: [
      when(less(arg(1), 2), ret(call('TPRQ', element(arg(3), 0), 0))),
      otherwise(ret(call('TPRQ', element(arg(3), 0), element(arg(3), 1)))),
    ],
    8: [ret(call('TPFN', element(arg(3), 0)))],
  });

/** Reset Attack Mitigation 1.10, section 6. */
const overwrite = (): Aml[] =>
  byFunction({ 0: [ret(buffer([0x03]))], 1: [store(element(arg(3), 0), path('MOVV')), ret(0)] });

/** The identifier of the TCG ACPI Specification 1.3 (section 9.1); Linux and Windows bind their drivers to it. */
export const tpmDevice = (): Aml =>
  device(
    'TPM',
    name('_HID', 'MSFT0101'),
    name('_UID', 1),
    name('_STA', 0xf),
    name('_CRS', resources(memory32(pc.tpm, tpmRegisterBytes))),
    memoryFields('PPIM', ppi.address + ppi.ready, 0x60, [
      ['PPIN', 8],
      ['PPIP', 32],
      ['PPRP', 32],
      ['PPRQ', 32],
      ['PPRM', 32],
      ['LPPR', 32],
      ['', 8 * (ppi.overwrite - ppi.last - 4)],
      ['MOVV', 8],
    ]),
    name('PPK2', pkg(0, 0)),
    name('PPK3', pkg(0, 0, 0)),
    name('PPK5', pkg(0, 0, 0)),
    // What firmware does for an operation.
    method(
      'TPFN',
      1,
      when(not(less(arg(0), 0x100)), ret(PpiFunction.none)),
      memoryFields('PPIO', plus(ppi.address + ppi.functions, arg(0)), 1, [['PPIF', 8]]),
      ret(path('PPIF')),
    ),
    // Asks for an operation with a parameter: 0 success, 1 not implemented, 3 blocked.
    method(
      'TPRQ',
      2,
      store(call('TPFN', arg(0)), local(0)),
      when(equal(local(0), PpiFunction.none), ret(1)),
      when(equal(local(0), PpiFunction.blocked), ret(3)),
      store(arg(0), path('PPRQ')),
      store(arg(1), path('PPRM')),
      ret(0),
    ),
    method(
      '_DSM',
      4,
      when(equal(arg(0), uuid('3dddfaa6-361b-4eb4-a424-8d10089d1653')), ...presence()),
      when(equal(arg(0), uuid('376054ed-cc13-4675-901c-4756d7f2d45d')), ...overwrite()),
      ret(buffer([0x00])),
    ),
  );
