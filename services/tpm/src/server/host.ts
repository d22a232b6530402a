/** The TPM behind the servers: power, platform signals and commands, whichever wire they come on. */
import { execute } from '../core/dispatch.ts';
import { Tpm, type TpmOptions } from '../core/tpm.ts';
import { codeOf } from '../spec/commands.ts';
import { ST, SU } from '../spec/constants.ts';

const be = (tag: number, code: number, parameter: number) => {
  const b = Buffer.alloc(12);
  b.writeUInt16BE(tag, 0);
  b.writeUInt32BE(12, 2);
  b.writeUInt32BE(code, 6);
  b.writeUInt16BE(parameter, 10);
  return b;
};

export class TpmHost {
  private readonly options: TpmOptions;
  private current: Tpm | undefined;
  /** TPM_ACCESS.tpmEstablishment: a dynamic launch happened. */
  established = false;

  constructor(options: TpmOptions) {
    this.options = options;
  }

  get running(): boolean {
    return this.current !== undefined;
  }
  get tpm(): Tpm | undefined {
    return this.current;
  }

  /** Power on, or reset: everything volatile is lost. */
  powerOn(): void {
    this.current = new Tpm(this.options);
  }
  /** Goes on from the store as the successor of a killed process does (options.crashOnly). */
  resume(): void {
    this.current = new Tpm({ ...this.options, resume: true });
  }
  powerOff(): void {
    this.current = undefined;
  }
  /** Startup(CLEAR) in the name of a host that leaves it to the TPM. */
  startupClear(): void {
    this.command(be(ST.NO_SESSIONS, codeOf('Startup'), SU.CLEAR), 0);
  }
  /** An orderly end in the name of a host that forgot. */
  shutdownState(): void {
    if (this.current?.started) this.command(be(ST.NO_SESSIONS, codeOf('Shutdown'), SU.STATE), 0);
  }

  /** Executes a command at a locality. Undefined while the power is off. */
  command(bytes: Buffer, locality: number): Buffer | undefined {
    const tpm = this.current;
    if (!tpm) return undefined;
    tpm.locality = locality;
    const response = execute(tpm, bytes);
    tpm.cancelled = false;
    return response;
  }
}
