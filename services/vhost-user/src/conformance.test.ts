/**
 * The suite of all devices. It runs within one turn of the event loop, where no back-end answers: what is tested is the device
 * that waits for one, as it may do at any time. With back-ends that answer, ours and others', the process is killed under load
 * in test/vhost-user.
 */
import { conformance } from '@nyx/device/conformance';
import type { TestContext } from '@nyx/device/testing';
import { dup, memfdCreate, socketpair } from '@nyx/native';
import { type VhostConfig, vhostUser } from './device.ts';
import type { VhostState } from './regs.ts';
import { relayBytes } from './relay.ts';

const ram = memfdCreate('test-ram', 0x20000);
const relay = memfdCreate('test-relay', relayBytes);
// Nobody answers at the other end.
const [, connector] = socketpair();

const config: VhostConfig = {
  type: 2,
  classCode: 0x010000,
  queues: 1,
  features: 0x1e46,
  config: '00'.repeat(60),
};

conformance(vhostUser, {
  config,
  // Each device has descriptors of its own, as each process has, and nobody closes them here.
  runs: 15,
  prepare(ctx: TestContext<typeof VhostState>) {
    ctx.bulks.set('relay', new ArrayBuffer(relayBytes));
    const fds: Record<string, number> = { ram, relay, connector };
    ctx.fd = (name) => dup(fds[name]!);
  },
});
