// nyx-vcpu: runs the vCPUs of one virtual machine. Descriptor 3 is its control socket; a message with the machine
// description and all descriptors comes first. It opens nothing itself but /dev/kvm, and parses nothing else.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "clock.h"
#include "jail.h"
#include "machine.h"

namespace nyx {
namespace {

using machine::ControlEvent;
using machine::ControlOp;

// A rejected description ends the process: 2. A closed socket before there is a machine: 0.
constexpr int kExitRejected = 2;
constexpr int kExitStuck = 3;

int Rejected(Control& control, const std::string& text) {
  control.Send(ControlEvent::kRejected, 0, 0, 0, text);
  for (int i = 0; i < 100 && !control.Flush(); i++) usleep(10'000);
  return kExitRejected;
}

std::unique_ptr<Machine> AwaitMachine(Control& control, Description* description, int* status) {
  for (;;) {
    pollfd p{control.fd(), POLLIN, 0};
    if (poll(&p, 1, -1) < 0 && errno != EINTR) return nullptr;
    ControlInput input;
    switch (control.Receive(&input)) {
      case Control::Received::kNothing: continue;
      case Control::Received::kClosed: *status = 0; return nullptr;
      case Control::Received::kBad: *status = Rejected(control, "message is not as long as it says"); return nullptr;
      case Control::Received::kMessage: break;
    }
    if (input.message.op == ControlOp::kQuit) {
      *status = 0;
      return nullptr;
    }
    std::string error;
    if (input.message.op != ControlOp::kMachine) {
      *status = Rejected(control, "the first message must be a machine, not op " + std::to_string(input.message.op));
      return nullptr;
    }
    if (!ParseDescription(input.payload.data(), input.payload.size(), input.fds.size(), description, &error)) {
      *status = Rejected(control, error);
      return nullptr;
    }
    auto machine = Machine::Create(*description, std::move(input.fds), &control, &error);
    if (!machine) *status = Rejected(control, error);
    return machine;
  }
}

// True: quit.
bool Handle(Machine& machine, const ControlInput& input) {
  if (input.message.op == ControlOp::kSave) machine.SaveState(input.fds, input.message.a & 1);
  if (input.message.op == ControlOp::kLoad) machine.LoadState(input.fds);
  for (const int fd : input.fds) close(fd);
  switch (input.message.op) {
    case ControlOp::kStart: machine.Resume(true); return false;
    case ControlOp::kPause: machine.Pause(); return false;
    case ControlOp::kResume: machine.Resume(false); return false;
    case ControlOp::kReset: machine.Reset(); return false;
    case ControlOp::kIsolate: machine.Isolate(input.message.a); return false;
    case ControlOp::kReplaced: machine.Replaced(input.message.a); return false;
    case ControlOp::kNmi: machine.Nmi(input.message.a); return false;
    case ControlOp::kLook: machine.Look(); return false;
    case ControlOp::kRegisters: machine.Registers(input.message.a); return false;
    case ControlOp::kQuieten: machine.Quieten(input.message.a & 1); return false;
    case ControlOp::kRelease: machine.Release(); return false;
    case ControlOp::kQuit: return true;
    default: return false;
  }
}

void Serve(Control& control, Machine& machine, bool quit_on_close) {
  bool open = true;
  for (;;) {
    const bool flushed = control.Flush();
    pollfd p[2] = {{machine.event_fd(), POLLIN, 0},
                   {open ? control.fd() : -1, static_cast<short>(POLLIN | (flushed ? 0 : POLLOUT)), 0}};
    if (poll(p, 2, machine.Impatient() ? 1 : -1) < 0 && errno != EINTR) return;
    if (p[0].revents || machine.Impatient()) machine.Service();
    if (!p[1].revents) continue;
    ControlInput input;
    switch (control.Receive(&input)) {
      case Control::Received::kMessage:
        if (Handle(machine, input)) return;
        break;
      case Control::Received::kClosed:
        // The supervisor may die: the guest goes on.
        if (quit_on_close) return;
        open = false;
        break;
      case Control::Received::kBad:
      case Control::Received::kNothing: break;
    }
  }
}

int Main() {
  if (fcntl(3, F_GETFD) < 0) {
    fprintf(stderr, "nyx-vcpu is started by nyxd: descriptor 3 must be its control socket\n");
    return 1;
  }
  Clock::BeginMeasuring();
  signal(SIGPIPE, SIG_IGN);
  // Interrupts system calls of vCPU threads (Machine::Interrupt).
  struct sigaction nothing = {};
  nothing.sa_handler = [](int) {};
  sigaction(SIGRTMIN, &nothing, nullptr);
  Control control(3);
  Description description;
  int status = 1;
  auto machine = AwaitMachine(control, &description, &status);
  if (!machine) return status;
  const std::string missing = LockDown();
  control.Send(ControlEvent::kReady, machine->engine(), machine->measured(), 0, missing);
  if (!(description.header.flags & 1)) machine->Resume(true);
  Serve(control, *machine, description.header.flags & 2);
  if (!machine->Quit()) _exit(kExitStuck);
  return 0;
}

}  // namespace
}  // namespace nyx

int main() { return nyx::Main(); }
