/**
 * What can be wrong with a kernel, an initrd, a firmware file or a machine size. The code is stable; the message
 * says what was expected, what came and what to do.
 */
export type BootErrorCode =
  | 'KERNEL_NOT_BZIMAGE'
  | 'KERNEL_NOT_ELF'
  | 'KERNEL_TRUNCATED'
  | 'KERNEL_TOO_OLD'
  | 'KERNEL_NO_PVH'
  | 'KERNEL_BAD_ADDRESS'
  | 'KERNEL_COMPRESSION'
  | 'INITRD_TRUNCATED'
  | 'INITRD_TOO_LARGE'
  | 'CMDLINE_TOO_LONG'
  | 'MEMORY_TOO_SMALL'
  | 'MEMORY_BAD_SIZE'
  | 'FIRMWARE_BAD_SIZE'
  | 'ACPI_TOO_LARGE';

export class BootError extends Error {
  override readonly name = 'BootError';
  constructor(
    readonly code: BootErrorCode,
    readonly expected: string,
    readonly got: string,
    /** What to do. */
    readonly advice: string,
  ) {
    super(`${code}: expected ${expected}, got ${got}. ${advice}`);
  }
}
