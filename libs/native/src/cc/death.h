// How a process tells of its death as soon as it can change nothing more, and how another one hears of it.
//
// A pidfd tells when the last thread is gone, and the last one to go takes the address space apart before: for a
// Node process 2 to 4 ms. Before that, the kernel looks through the dying thread's list of robust futexes (set_robust_list(2)):
// a word that holds the thread's id gets FUTEX_OWNER_DIED, and a waiter is woken. The thread executes nothing more then, and
// system calls of its own have ended. What others may still do for it - kernel or threads, with its file requests - is
// counted beside that word.
#pragma once
#include <node_api.h>

#include <cstdint>

#include "wire.h"

namespace nyx {

// The calling thread's death is told in `control.holder` from now on, and nowhere else.
void TellDeath(wire::ProcessControl& control);
// No more, if it is told there.
void ForgetDeath(wire::ProcessControl& control);
// So many file requests of this thread were given to others, or came back (negative).
void CountInFlight(int32_t change);

void ExportDeath(napi_env env, napi_value exports);

}  // namespace nyx
