/** Formats of disk images. Without dependencies: device processes load it. */

/** What an image is; a file that is no image is raw. */
export const diskFormats = ['raw', 'qcow2', 'vhdx'] as const;
export type DiskFormat = (typeof diskFormats)[number];
export const isDiskFormat = (text: unknown): text is DiskFormat =>
  (diskFormats as readonly unknown[]).includes(text);
