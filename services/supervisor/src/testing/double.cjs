// Stands in for a device process or for nyx-vcpu in tests of the supervisor. It speaks the real messages over the real
// addon on descriptor 3; what it does wrong is told by its name: `double.cjs <behaviour>` or a link of that name.
const { existsSync, realpathSync } = require("node:fs");
const { basename, dirname, join } = require("node:path");

const addon = (folder) => {
  const path = join(folder, "libs/native/build/Release/nyx_native.node");
  return existsSync(path) ? path : addon(dirname(folder));
};
const m = { exports: {} };
process.dlopen(m, addon(dirname(realpathSync(__filename))));
const native = m.exports;

const behaviour = basename(process.argv[1], ".cjs");
const json = (o) => Buffer.from(JSON.stringify(o));

// A standby is one who waits for the death of its predecessor, and then for its word or ours.
let waiting;
const device = (socket) => {
  const serve = server(socket);
  const onMessage = (bytes, fds) => {
    const role = JSON.parse(Buffer.from(bytes).toString());
    if (role.type === "takeOver") return waiting?.();
    if (role.type !== "role") return;
    if (!role.standby) return serve(role, fds);
    waiting = () => {
      waiting = undefined;
      serve(role, fds);
    };
    const dead = native.watch(fds[role.standby.predecessor], () => {
      dead.close();
      if (native.eventfdRead(fds[role.standby.claim]) === 1) waiting();
    });
    socket().send(json({ type: "armed", process: role.process, migrates: [] }));
  };
  return { onMessage };
};

const server = (socket) => (role, fds) => {
  if (behaviour === "silent") return;
  if (behaviour === "crash") process.exit(3);
  if (behaviour === "refuse")
    return socket().send(json({ type: "failed", process: role.process, code: "CONFIG_INVALID", message: "no such model" }));
  if (behaviour === "garbage") return socket().send(Buffer.from([0, 1, 2, 255]));
  const ring = native.mmap(fds[role.ring], native.fileSize(fds[role.ring]));
  const words = new Uint32Array(ring);
  // ProcessControl: epoch at 12, heartbeat at 72, attached at 76 (libs/ring/src/wire.ts).
  words[3]++;
  // The first dies, the second cannot start, the third serves.
  if (behaviour === "stumble" && words[3] === 2)
    return socket().send(json({ type: "failed", process: role.process, code: "DEVICE_BUG", message: "out of sorts" }));
  if (behaviour === "stumble" && words[3] === 1) setTimeout(() => process.exit(4), 5);
  words[19] = words[3];
  if (behaviour !== "hang" || words[3] > 1) setInterval(() => words[18]++, 20);
  for (const d of role.devices) {
    if (d.fds.consoleIn === undefined) continue;
    const memory = native.mmap(fds[d.fds.console], native.fileSize(fds[d.fds.console]));
    echo(memory, fds[d.fds.consoleIn], fds[d.fds.consoleOut]);
  }
  socket().send(json({ type: "serving", process: role.process, epoch: words[3], attachNs: 1000, republished: 0, repaired: [], missing: [] }));
  if (behaviour === "loop") setTimeout(() => process.exit(4), 5);
};

// A UART whose guest sends back what it gets.
const echo = (memory, kick, out) => {
  const w = new Uint32Array(memory);
  const bytes = new Uint8Array(memory);
  native.watch(kick, () => {
    while (w[17] !== w[33]) bytes[0x1000 + (w[16]++ & 0x3ffff)] = bytes[0x41000 + (w[17]++ & 0xfff)];
    native.eventfdWrite(out);
  }, { drain: true });
};

// ControlOp to the ControlEvent that answers it (libs/protocol/src/machine.ts).
const answers = { 1: 1, 2: 2, 3: 3, 4: 4, 5: 12, 11: 13 };
const event = (op, text = "") => {
  const b = Buffer.alloc(32 + Buffer.byteLength(text));
  b.writeUInt32LE(op, 0);
  b.writeUInt32LE(Buffer.byteLength(text), 4);
  b.write(text, 32);
  return b;
};
const vcpu = (socket) => ({
  onMessage(bytes) {
    const op = Buffer.from(bytes).readUInt32LE(0);
    if (op === 6) process.exit(0);
    if (behaviour === "vcpu-reject" && op === 1) return socket().send(event(11, "devices overlap"));
    if (answers[op]) socket().send(event(answers[op]));
    if (behaviour === "vcpu-dies" && op === 2) setTimeout(() => process.exit(9), 20);
    if (behaviour === "vcpu-shutdown" && op === 2) {
      const e = event(5);
      e.writeUInt32LE(2, 8);
      setTimeout(() => socket().send(e), 20);
    }
    // ControlEvent.violation of process 0: VcpuError.badStatus, then badTail.
    if (behaviour === "vcpu-violation" && op === 2)
      for (const error of [1, 2]) {
        const e = event(7);
        e.writeUInt32LE(error, 16);
        setTimeout(() => socket().send(e), 300 * error);
      }
    // ControlEvent.internalError; c is the EngineFault.
    const engine = ["vcpu-error", "vcpu-emulation", "vcpu-entry", "vcpu-exit"].indexOf(behaviour);
    if (engine >= 0 && op === 2) {
      const e = event(10, "instruction 0f ff");
      e.writeUInt32LE(engine, 24);
      setTimeout(() => socket().send(e), 20);
    }
  },
});

let connection;
const socket = () => connection;
const handlers = behaviour.startsWith("vcpu") ? vcpu(socket) : device(socket);
connection = native.openSeqSocket(3, { ...handlers, maxFds: 253, onClose() {} });
if (!behaviour.startsWith("vcpu")) connection.send(json({ type: "ready", pid: process.pid }));
