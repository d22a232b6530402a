import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GuestRam } from '../ram.ts';
import { type AcpiMachine, acpiFiles, acpiTables, pciGsi, writeAcpi } from './tables.ts';

const machines: Record<string, AcpiMachine> = {
  small: { cpus: 1 },
  full: { cpus: 4, hasHpet: true, hasMouse: true, hasVga: true },
  tis: { cpus: 1, tpm: 'tis' },
  crb: { cpus: 1, tpm: 'crb' },
};

/** Tables by signature in a linked blob. */
function split(bytes: Uint8Array): Map<string, Uint8Array> {
  const out = new Map<string, Uint8Array>();
  const v = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0; at < bytes.length; ) {
    const length = v.getUint32(at + 4, true);
    out.set(String.fromCharCode(...bytes.subarray(at, at + 4)), bytes.slice(at, at + length));
    at = Math.ceil((at + length) / 16) * 16;
  }
  return out;
}

const sum = (bytes: Uint8Array): number => bytes.reduce((a, b) => (a + b) & 255, 0);
const has = (program: string): boolean => spawnSync(program, ['-v']).error === undefined;
const hasAcpica = has('iasl') && has('acpiexec');
if (!hasAcpica) console.warn('skipped: iasl and acpiexec (package acpica-tools) are not installed');

/** What firmware does with the loader script (SeaBIOS romfile_loader.c, OVMF AcpiPlatformDxe), independently of `TableBlob`. */
function runScript(
  files: Record<string, Uint8Array>,
  placeAt: Record<string, number>,
): Record<string, Uint8Array> {
  const script = files['etc/table-loader']!;
  const v = new DataView(script.buffer, script.byteOffset, script.length);
  const memory: Record<string, Uint8Array> = {};
  const nameAt = (at: number): string =>
    Buffer.from(script.subarray(at, at + 56))
      .toString('latin1')
      .split('\0')[0]!;
  expect(script.length % 128).toBe(0);
  for (let at = 0; at < script.length; at += 128) {
    const op = v.getUint32(at, true);
    const file = nameAt(at + 4);
    if (op === 1) {
      expect(memory[file]).toBeUndefined();
      expect(placeAt[file]! % v.getUint32(at + 60, true)).toBe(0);
      expect([1, 2]).toContain(script[at + 64]);
      memory[file] = files[file]!.slice();
    } else if (op === 2) {
      const target = nameAt(at + 60);
      expect(memory[target]).toBeDefined();
      const offset = v.getUint32(at + 116, true);
      const m = new DataView(memory[file]!.buffer);
      expect([4, 8]).toContain(script[at + 120]);
      expect(offset + script[at + 120]!).toBeLessThanOrEqual(memory[file]!.length);
      m.setUint32(offset, m.getUint32(offset, true) + placeAt[target]!, true);
    } else if (op === 3) {
      const [offset, start, length] = [
        v.getUint32(at + 60, true),
        v.getUint32(at + 64, true),
        v.getUint32(at + 68, true),
      ];
      const m = memory[file]!;
      expect(start + length).toBeLessThanOrEqual(m.length);
      m[offset] = 0;
      m[offset] = -sum(m.subarray(start, start + length)) & 255;
    } else expect.unreachable(`command ${op}`);
  }
  return memory;
}

describe.each(Object.entries(machines))('ACPI tables of machine %s', (_, machine) => {
  const ram = new GuestRam(new ArrayBuffer(2 << 20), 2 << 20);
  const root = writeAcpi(ram, machine);

  it('hangs together from the root pointer, sums right', () => {
    const v = ram.view(root, 36);
    expect(root % 16).toBe(0);
    expect(Buffer.from(ram.bytes(root, 8)).toString()).toBe('RSD PTR ');
    expect([sum(ram.bytes(root, 20)), sum(ram.bytes(root, 36))]).toEqual([0, 0]);
    const table = (at: number): { signature: string; bytes: Uint8Array } => {
      const bytes = ram.bytes(at, ram.view(at + 4, 4).getUint32(0, true));
      expect(sum(bytes)).toBe(0);
      return { signature: Buffer.from(bytes.subarray(0, 4)).toString(), bytes };
    };
    const xsdt = table(Number(v.getBigUint64(24, true)));
    expect(xsdt.signature).toBe('XSDT');
    const entries = Array.from({ length: (xsdt.bytes.length - 36) / 8 }, (_, i) =>
      table(Number(new DataView(ram.buffer, xsdt.bytes.byteOffset + 36 + i * 8, 8).getBigUint64(0, true))),
    );
    expect(entries.map((e) => e.signature)).toEqual([
      'FACP',
      'APIC',
      'MCFG',
      ...(machine.hasHpet ? ['HPET'] : []),
      ...(machine.tpm ? ['TPM2'] : []),
    ]);
    const fadt = new DataView(ram.buffer, entries[0]!.bytes.byteOffset, 276);
    const dsdt = fadt.getUint32(40, true);
    expect(Number(fadt.getBigUint64(140, true))).toBe(dsdt);
    expect(table(dsdt).signature).toBe('DSDT');
    const facs = fadt.getUint32(36, true);
    expect(facs % 64).toBe(0);
    expect(Buffer.from(ram.bytes(facs, 4)).toString()).toBe('FACS');
  });

  it('comes out the same through the loader script', () => {
    const base = 0x7ff0_0000;
    const log = 0x7fe0_1000;
    const places = { 'etc/acpi/tables': base, 'etc/acpi/rsdp': 0xf5000, 'etc/tpm/log': log };
    const made = runScript(acpiFiles(machine), places);
    const { blob, xsdt } = acpiTables(machine, log);
    expect(Buffer.from(made['etc/acpi/tables']!).equals(blob.link(base, 0x8000_0000))).toBe(true);
    const rsdp = made['etc/acpi/rsdp']!;
    expect([sum(rsdp.subarray(0, 20)), sum(rsdp)]).toEqual([0, 0]);
    expect(Number(new DataView(rsdp.buffer).getBigUint64(24, true))).toBe(base + xsdt);
  });
});

it('counts processors and changes to x2APIC entries where identifiers end', () => {
  const madt = split(acpiTables({ cpus: 300 }).blob.link(0, 1 << 20)).get('APIC')!;
  const types: number[] = [];
  for (let at = 44; at < madt.length; at += madt[at + 1]!) types.push(madt[at]!);
  expect(types.filter((t) => t === 0)).toHaveLength(255);
  expect(types.filter((t) => t === 9)).toHaveLength(45);
  expect(types.slice(-5)).toEqual([1, 2, 2, 4, 0x0a]);
});

it('refuses tables that do not fit', () => {
  expect(() => acpiTables({ cpus: 4096 }).blob.link(0xe0000, 0x100000)).toThrow(/ACPI_TOO_LARGE/);
});

describe.skipIf(!hasAcpica)('ACPI tables as ACPICA reads them', () => {
  let directory = '';
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'nyx-acpi-'));
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  const write = (machine: AcpiMachine): string[] => {
    const tables = split(acpiTables(machine).blob.link(0xe0040, 0x100000));
    return [...tables].map(([signature, bytes]) => {
      writeFileSync(join(directory, `${signature}.dat`), bytes);
      return signature;
    });
  };

  it.each(Object.keys(machines))('disassembles and compiles without a complaint (%s)', async (which) => {
    let text = '';
    for (const signature of write(machines[which]!)) {
      execFileSync('iasl', ['-d', `${signature}.dat`], { cwd: directory, stdio: 'pipe' });
      const log = execFileSync('iasl', [`${signature}.dsl`], { cwd: directory, stdio: 'pipe' }).toString();
      // A TPM's has a field whose place an argument tells, in a method: slow, which is remarked.
      const remarks = machines[which]!.tpm && signature === 'DSDT' ? 1 : 0;
      expect(log).toContain(`0 Errors, 0 Warnings, ${remarks} Remarks`);
      const source = readFileSync(join(directory, `${signature}.dsl`), 'utf8');
      // Without the comment at its head (date and version) and raw dumps.
      // What a TPM adds; the rest is as without it.
      if (machines[which]!.tpm && signature === 'DSDT')
        text += `${/^( +)Device \(TPM\)\n[\s\S]*?\n\1}\n/m.exec(source)![0]}\n`;
      else if (!machines[which]!.tpm || signature === 'TPM2')
        text += `${source.replace(/^\/\*[\s\S]*?\*\/\s*/, '').replace(/\nRaw Table Data[\s\S]*$/, '\n')}\n`;
    }
    await expect(text).toMatchFileSnapshot(`golden/${which}.dsl`);
  });

  it('evaluates the physical presence interface: what no firmware has set up is not implemented', () => {
    write(machines.crb!);
    const dsm = (revision: number, call: number, given: string): string => {
      const uuid = '(A6FADD3D1B36B44EA4248D10089D1653)';
      const command = `evaluate \\_SB.TPM._DSM ${uuid} ${revision} ${call} ${given}`;
      const { stdout } = spawnSync('acpiexec', ['-b', command, 'DSDT.dat'], { cwd: directory });
      return (
        /external buffer length \d+\s+([\s\S]*)/.exec(stdout.toString())?.[1]?.replace(/\s+/g, ' ') ?? ''
      );
    };
    expect(dsm(1, 0, '[]')).toMatch(/^\[Buffer\] Length 02 = 0000: FF 01/);
    expect(dsm(1, 1, '[]')).toMatch(/"1\.3"/);
    expect(dsm(1, 2, '[5]')).toMatch(/\[Integer\] = 0*1\b/);
    expect(dsm(2, 7, '[5 0]')).toMatch(/\[Integer\] = 0*1\b/);
    expect(dsm(1, 8, '[0x100]')).toMatch(/\[Integer\] = 0+\b/);
    expect(dsm(1, 3, '[]')).toContain('Contains 2 Elements');
    expect(dsm(2, 3, '[]')).toContain('Contains 3 Elements');
    expect(dsm(1, 5, '[]')).toContain('Contains 3 Elements');
  });

  it('evaluates', () => {
    write(machines.full!);
    // `resources` also tries methods that no device here has.
    const absent =
      /^.*(AcpiSetCurrentResources failed|AcpiGetIrqRoutingTable failed|Could not obtain IRQ routing table).*AE_NOT_FOUND.*$/gm;
    const run = (command: string): string =>
      spawnSync('acpiexec', ['-b', command, 'DSDT.dat'], { cwd: directory })
        .stdout.toString()
        .replace(absent, '');
    const isa = ['COM1', 'COM2', 'RTC', 'KBD', 'MOU'].map((d) => `\\_SB.PCI0.ISA.${d}`);
    const resources = run(['\\_SB.PCI0', ...isa].map((d) => `resources ${d}`).join(';'));
    for (const device of isa) expect(resources).toContain(`Device: ${device}`);
    expect(resources).not.toMatch(/AE_|Error/);
    const routes = [
      ...resources.matchAll(/Address : (\w+)\s+Pin : (\w+)\s+Source : .*\s+Source Index : (\w+)/g),
    ].map((m) => m.slice(1).map((x) => Number.parseInt(x, 16)));
    expect(routes).toHaveLength(31 * 4);
    for (const [address, pin, gsi] of routes) expect(gsi).toBe(pciGsi(address! >>> 16, pin!));
    expect(resources).toMatch(/Address Minimum : 0000008000000000/i);
    // Asks for everything: is granted all but SHPC, and told so (bit 4 of the first word).
    const osc = run(
      'evaluate \\_SB.PCI0._OSC (5B4DDB33F71F1C4096577441C03DD766) 1 3 (0000000000000000FF010000)',
    );
    expect(osc).not.toMatch(/AE_/);
    expect(osc.replace(/\s+/g, ' ')).toMatch(/10 00 00 00 00 00 00 00 1D 00 00 00/);
  });
});
