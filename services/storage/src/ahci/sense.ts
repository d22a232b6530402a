/** Sense keys with their additional codes (SPC-3 4.5.6, MMC-5 annex F): key << 16 | ASC << 8 | ASCQ. */
export const Sense = {
  none: 0,
  noMediumTrayClosed: 0x02_3a01,
  noMediumTrayOpen: 0x02_3a02,
  readError: 0x03_1100,
  opcode: 0x05_2000,
  lbaRange: 0x05_2100,
  field: 0x05_2400,
  incompatibleMedium: 0x05_3002,
  savingUnsupported: 0x05_3900,
  removalPrevented: 0x05_5302,
  mediumChanged: 0x06_2800,
  reset: 0x06_2900,
} as const;

/** Unit attentions, told one after the other. */
export const Attention = { reset: 1, medium: 2 } as const;

/** Event codes of the media class (MMC-5 6.6.2.6). */
export const MediaEvent = { none: 0, ejectRequest: 1, newMedia: 2, removal: 3 } as const;
