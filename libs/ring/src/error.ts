/** An error with a code: what was expected, what came, and what to do is in the message. */
export class RingError extends Error {
  constructor(
    readonly code:
      | 'RING_FORMAT'
      | 'RING_CORRUPT'
      | 'STATE_SIZE'
      | 'STATE_FORMAT'
      | 'STATE_KIND'
      | 'STATE_VERSION'
      | 'STATE_LAYOUT'
      | 'STATE_CORRUPT'
      | 'STATE_MIGRATION'
      | 'PAGE_FORMAT',
    message: string,
  ) {
    super(message);
    this.name = 'RingError';
  }
}
