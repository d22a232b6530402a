export { guestCmdline, type OnProgress, type Progress } from './debian.ts';
export { createDataDisk, dataDiskBytes } from './disk.ts';
export { ImageError, type ImageErrorCode } from './errors.ts';
export { cacheRoot, type Image, ImageStore } from './images.ts';
export { shellPrompt } from './init.ts';
