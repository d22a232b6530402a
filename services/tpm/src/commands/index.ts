/** The actions of all commands; a command that is in none of these tables is not implemented. */
import type { Handlers } from '../core/dispatch.ts';
import { capabilityCommands } from './capability.ts';
import { x509Commands } from './certify-x509.ts';
import { duplicationCommands } from './duplication.ts';
import { hashCommands } from './hash.ts';
import { hierarchyCommands } from './hierarchy.ts';
import { nvCommands } from './nv.ts';
import { objectCommands } from './objects.ts';
import { pcrCommands } from './pcr.ts';
import { policyCommands } from './policy.ts';
import { sessionCommands } from './session.ts';
import { keyCommands } from './signatures.ts';
import { startupCommands } from './startup.ts';

export const handlers: Handlers = {
  ...startupCommands,
  ...capabilityCommands,
  ...hashCommands,
  ...pcrCommands,
  ...objectCommands,
  ...sessionCommands,
  ...keyCommands,
  ...policyCommands,
  ...nvCommands,
  ...hierarchyCommands,
  ...duplicationCommands,
  ...x509Commands,
};
