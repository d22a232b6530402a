/**
 * What happened, for a person: a text in the run directory for each serious fault (`nyx report`). When, where, registers, what
 * the machine was doing, the last words of the device process and of the guest, and what was done.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { files } from '@nyx/nyx/files';
import { faultKind, strategies } from '@nyx/protocol';
import type { Status } from '@nyx/protocol/control';
import { Records } from './cli/records.ts';
import { describe, type Fault } from './fault-log.ts';

/** Reports kept; the newest is report.txt, the ones before it report.1.txt and so on. */
const kept = 8;
const consoleLines = 40;
const logLines = 15;

export const reportName = (n: number): string => (n === 0 ? 'report.txt' : `report.${n}.txt`);

const seconds = (ns: number): string => `${(ns / 1e9).toFixed(3)} s`;

/** The last lines of what the guest printed, without control characters. */
const lastConsole = (dir: string): string[] => {
  try {
    const text = readFileSync(join(dir, files.console), 'utf8').slice(-8192);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: a guest may print anything.
    const plain = text.replace(/\x1b\[[0-9;?]*[A-Za-z]/g, '').replace(/[^\x20-\x7e\n]/g, '');
    return plain.split('\n').filter(Boolean).slice(-consoleLines);
  } catch {
    return [];
  }
};

/** The last log records of a device process. */
const lastRecords = (dir: string, process: string): string[] => {
  try {
    return new Records(dir, process)
      .read()
      .slice(-logLines)
      .map((r) => {
        const { level, message, component } = JSON.parse(r.line) as Record<string, string>;
        return `${new Date(r.at).toISOString().slice(11, 23)} ${level} ${component}: ${message}`;
      });
  } catch {
    return [];
  }
};

const section = (title: string, lines: readonly string[]): string[] =>
  lines.length === 0 ? [] : ['', title, ...lines.map((l) => `  ${l}`)];

/** @param recent faults before this one, oldest first */
export const reportText = (
  fault: Fault,
  registers: string,
  status: Status,
  recent: readonly Fault[],
  dir: string,
): string => {
  const k = faultKind(fault.kind);
  const what = describe(fault.kind, fault.data);
  const line = (f: Fault): string =>
    `${new Date(f.at).toISOString().slice(11, 23)} ${f.kind}${f.source && ` of ${f.source}`}${f.escalated ? ' (again)' : ''}: ${describe(f.kind, f.data) || '-'}; ${f.strategy}`;
  const vcpus = status.vcpus.map(
    (v, i) =>
      `vCPU ${i} ${v.waitsFor ? `waits for ${v.waitsFor}` : v.state} at ${v.lastRip}, ${v.instructions} instructions, ${v.interrupts} interrupts`,
  );
  return `${[
    `${fault.kind} (${fault.severity})${fault.source && ` of ${fault.source}`}`,
    '',
    k.doc,
    '',
    `machine     ${status.name}, ${status.accel}, ${status.cpus} vCPUs, ${status.memory / 2 ** 20} MiB, ${status.resets} resets so far`,
    `when        ${new Date(fault.at).toISOString()}, guest time ${seconds(fault.guestNs)}`,
    ...(what ? [`what        ${what}`] : []),
    `noticed by  ${k.by}`,
    `done        ${fault.strategy}${fault.escalated ? ' (the budget of what is usually done was spent)' : ''}: ${strategies[fault.strategy].doc}`,
    ...section('vCPUs', vcpus),
    ...section('Registers', registers.split('\n').filter(Boolean)),
    ...section(
      'Device processes',
      status.processes.map((p) => `${p.name} ${p.state}, process ${p.pid}, ${p.restarts} restarts`),
    ),
    ...section('Faults before', recent.slice(0, -1).slice(-8).map(line)),
    ...section(`Log of ${fault.source}`, fault.source ? lastRecords(dir, fault.source) : []),
    ...section('Last lines of the console', lastConsole(dir)),
  ].join('\n')}\n`;
};

/** Keeps a report: the newest under one name, some older ones beside it. */
export const writeReport = (dir: string, text: string): void => {
  rmSync(join(dir, reportName(kept - 1)), { force: true });
  for (let n = kept - 2; n >= 0; n--) {
    try {
      renameSync(join(dir, reportName(n)), join(dir, reportName(n + 1)));
    } catch {
      // Not that many yet.
    }
  }
  writeFileSync(join(dir, reportName(0)), text, { mode: 0o600 });
};
