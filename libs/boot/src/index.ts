export * from "./bzimage.ts";
export * from "./errors.ts";
export * from "./lowmem.ts";
export * from "./ram.ts";
