export * from "./native.ts";
export type * from "./types.ts";
