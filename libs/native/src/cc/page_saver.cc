#include "page_saver.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>

#include "page_store.h"

namespace nyx {
namespace {

class PageSaver : public Object {
 public:
  // (page map's descriptor, RAM as an ArrayBuffer)
  static napi_value Create(napi_env env, napi_callback_info info) {
    Call call(env, info);
    int fd;
    Span ram;
    if (!call.Fd(0, &fd) || !call.Buffer(1, "ram", &ram)) return nullptr;
    struct stat st;
    if (fstat(fd, &st) != 0) return ThrowErrno(env, "fstat", errno);
    const uint64_t pages = ram.size / PageStore::kPage, size = static_cast<uint64_t>(st.st_size);
    const uint64_t bytes = PageStore::Bytes(pages);
    if (pages == 0 || size < bytes || size - bytes < sizeof(wire::PageMap))
      return Throw(env, "EINVAL", "pageMap: its file has " + std::to_string(size) + " bytes, too few for " + std::to_string(pages) + " pages");
    void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (at == MAP_FAILED) return ThrowErrno(env, "mmap", errno);
    auto* self = new PageSaver(static_cast<uint8_t*>(at), size, ram.data, HoldMemory(call.arg(1)));
    // The store ends with the file: its place is not read from memory that others can write.
    auto* map = static_cast<wire::PageMap*>(at);
    self->store_.Open(&map->store[0], self->map_ + (size - bytes), bytes, pages);
    napi_value object;
    napi_create_object(env, &object);
    SetMethod(env, object, "save", self, Member<PageSaver, &PageSaver::Save>);
    return object;
  }

 private:
  PageSaver(uint8_t* map, size_t size, const uint8_t* ram, std::shared_ptr<void> hold)
      : map_(map), size_(size), ram_(ram), hold_(std::move(hold)) {}
  ~PageSaver() override { munmap(map_, size_); }

  // (offset in RAM, bytes): they may be written now.
  napi_value Save(Call& call) {
    double at, length;
    const double end = static_cast<double>(store_.pages() * PageStore::kPage);
    if (!call.Number(0, "at", 0, end, &at) || !call.Number(1, "length", 0, end - at, &length)) return nullptr;
    if (length == 0 || !store_.saving()) return nullptr;
    const uint64_t first = static_cast<uint64_t>(at) / PageStore::kPage;
    const uint64_t last = static_cast<uint64_t>(at + length - 1) / PageStore::kPage;
    for (uint64_t page = first; page <= last; page++) {
      if (!store_.Saved(page) && !store_.Save(page, ram_ + page * PageStore::kPage, &spare_)) break;
    }
    return nullptr;
  }

  uint8_t* const map_;
  const size_t size_;
  const uint8_t* const ram_;
  const std::shared_ptr<void> hold_;
  PageStore store_;
  PageStore::Spare spare_ = 0;
};

}  // namespace

void ExportPageSaver(napi_env env, napi_value exports) { SetFunction(env, exports, "createPageSaver", PageSaver::Create); }

}  // namespace nyx
