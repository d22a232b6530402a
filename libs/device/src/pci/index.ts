export * from "./capability.ts";
export * from "./function.ts";
export * from "./regs.ts";
