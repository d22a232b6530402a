export * from './machine.ts';
export * from './role.ts';
