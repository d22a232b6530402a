/**
 * What a device asks of a TPM: one numbered request at a time. Whoever executes it keeps the number with the result, so that a
 * successor of a killed device process, which asks the same again, gets the answer and no second execution.
 */
import type { DeviceContext } from '@nyx/device';

/**
 * `init`: power comes (back); the data are commands to execute then, as firmware would (`unpackScript`); the response is
 * empty. `drtm`: a measurement by hardware: _TPM_Hash_Start, the data, _TPM_Hash_End; the response is empty.
 */
export const Op = { none: 0, init: 1, command: 2, drtm: 3 } as const;

export interface Request {
  /** Another one for every request, never 0. */
  number: number;
  op: number;
  locality: number;
  /** Guest milliseconds. */
  now: number;
  data: Uint8Array;
}

export interface Engine {
  /** `done` is called once, later, with the response. The request before has been answered, or is not wanted any more. */
  submit(request: Request, done: (response: Uint8Array) => void): void;
  /** The guest would rather not wait for the request under way: it is answered all the same, maybe TPM_RC_CANCELED. */
  cancel(): void;
}

/** Configuration that both interfaces know. */
export interface TpmConfig {
  /** Software may use locality 4. */
  locality4?: boolean;
  /**
   * Number of the machine's first request. Whoever executes keeps the last number with its state, so it must be another one for
   * each machine.
   */
  first?: number;
}
/** Makes the engine of a device; `settle` and `timer` are for engines that have work in a device's own events. */
export type EngineOf<C> = (ctx: DeviceContext, config: C) => Engine & { settle?(): void; timer?(): void };
