/** Who the TPM says it is: vendor and device of QEMU's, which firmware and drivers know; interface identifier (PTP 1.05, 6.5.2). */
export const vendorId = 0x1014;
export const deviceId = 0x0001;
export const revisionId = 0x01;
export const didVid = (deviceId << 16) | vendorId;

/** TPM_INTERFACE_ID and the low half of TPM_CRB_INTF_ID. */
export const interfaceId = {
  crb: 1,
  /** InterfaceVersion of CRB; that of FIFO is 0. */
  crbVersion: 1 << 4,
  fiveLocalities: 1 << 8,
  /** A transfer may be of up to 64 bytes. */
  transfer64: 3 << 11,
  hasFifo: 1 << 13,
  hasCrb: 1 << 14,
  crbSelected: 1 << 17,
  /** The interface cannot be changed. */
  locked: 1 << 19,
} as const;

/** 4 KiB for each; software reaches the first four. */
export const localities = 5;
export const localityBytes = 0x1000;
export const regionBytes = localities * localityBytes;
