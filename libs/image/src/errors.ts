/** What can go wrong while an image is built. The code is stable; the message says what was expected, what came and what to do. */
export type ImageErrorCode =
  | 'IMAGE_NO_APT'
  | 'IMAGE_NO_PACKAGES'
  | 'IMAGE_DOWNLOAD_FAILED'
  | 'IMAGE_BAD_PACKAGE'
  | 'IMAGE_BAD_NAME'
  | 'IMAGE_UNKNOWN'
  | 'IMAGE_NO_TOOL'
  | 'IMAGE_TOOL_FAILED'
  | 'IMAGE_LOCKED'
  | 'IMAGE_CACHE_UNUSABLE';

export class ImageError extends Error {
  override readonly name = 'ImageError';
  constructor(
    readonly code: ImageErrorCode,
    readonly expected: string,
    readonly got: string,
    /** What to do. */
    readonly advice: string,
  ) {
    super(`${code}: expected ${expected}, got ${got}. ${advice}`);
  }
}
