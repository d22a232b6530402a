// Entry of the addon. Every export is declared in src/types.ts.
#include <napi.h>

#include "death.h"
#include "events.h"
#include "exit_core.h"
#include "files.h"
#include "io_queue.h"
#include "jail.h"
#include "memory.h"
#include "page_saver.h"
#include "process.h"
#include "rights.h"
#include "ring_driver.h"
#include "seq_socket.h"
#include "test_producer.h"

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  nyx::ExportMemory(env, exports);
  nyx::ExportFiles(env, exports);
  nyx::ExportEvents(env, exports);
  nyx::ExportDeath(env, exports);
  nyx::ExportPageSaver(env, exports);
  nyx::ExportSeqSocket(env, exports);
  nyx::ExportRights(env, exports);
  nyx::ExportProcess(env, exports);
  nyx::ExportSpawn(env, exports);
  nyx::ExportJail(env, exports);
  nyx::ExportIoQueue(env, exports);
  nyx::ExportExitCore(env, exports);
  nyx::ExportTestProducer(env, exports);
  nyx::ExportRingDriver(env, exports);
  return exports;
}

NODE_API_MODULE(nyx_native, Init)
