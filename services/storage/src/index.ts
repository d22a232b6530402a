export * from './block/block.ts';
export * from './block/raw.ts';
export * from './kinds.ts';
export * from './virtio-blk/device.ts';
