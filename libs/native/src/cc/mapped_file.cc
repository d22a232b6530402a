#include "mapped_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <mutex>

#include "ticks.h"

// bool nyx_copy(to, from, bytes): false when a page of either cannot be had. The handler below knows the one instruction.
asm(R"(
  .pushsection .text
  .globl nyx_copy, nyx_copy_at, nyx_copy_failed
  .hidden nyx_copy, nyx_copy_at, nyx_copy_failed
  .type nyx_copy, @function
nyx_copy:
  movq %rdx, %rcx
  movl $1, %eax
nyx_copy_at:
  rep movsb
  ret
nyx_copy_failed:
  xorl %eax, %eax
  ret
  .size nyx_copy, .-nyx_copy
  .popsection
)");
extern "C" {
bool nyx_copy(void* to, const void* from, size_t bytes);
extern const char nyx_copy_at[], nyx_copy_failed[];
}

namespace nyx {
namespace {

// Two seconds or less: 2^32 ticks.
constexpr uint64_t kValidTicks = uint64_t{1} << 32;
// Reads of a window that the kernel answered at once, before it is asked for all of it.
constexpr uint32_t kHits = 4;
// Address space, and with it 40 bytes of what is known for each MiB.
constexpr uint64_t kLeast = uint64_t{1} << 30, kMost = uint64_t{1} << 40;

struct sigaction former;

void OnBusError(int number, siginfo_t* info, void* context) {
  auto& rip = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
  if (rip == reinterpret_cast<greg_t>(nyx_copy_at)) {
    rip = reinterpret_cast<greg_t>(nyx_copy_failed);
    return;
  }
  // Somebody else's: as if this handler were not there. What failed is executed again; a signal that was sent is not lost either.
  if ((former.sa_flags & SA_SIGINFO) != 0) return former.sa_sigaction(number, info, context);
  sigaction(number, &former, nullptr);
  if (info->si_code <= 0) raise(number);
}

bool CatchBusErrors() {
  static std::once_flag once;
  static bool caught = false;
  std::call_once(once, [] {
    struct sigaction action = {};
    action.sa_sigaction = OnBusError;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    caught = sigaction(SIGBUS, &action, &former) == 0;
  });
  return caught;
}

// mincore says of a file that is neither ours nor one we may write that all of it is there.
bool Told(int fd, const struct stat& s) {
  return s.st_uid == geteuid() || syscall(SYS_faccessat2, fd, "", W_OK, AT_EMPTY_PATH | AT_EACCESS) == 0;
}

}  // namespace

std::unique_ptr<MappedFile> MappedFile::Make(int fd) {
  struct stat s;
  if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode) || !Told(fd, s) || !CatchBusErrors()) return nullptr;
  // Room to grow.
  uint64_t length = 2 * static_cast<uint64_t>(s.st_size);
  if (length < kLeast) length = kLeast;
  if (length > kMost) length = kMost;
  length = (length + kWindow - 1) / kWindow * kWindow;
  std::unique_ptr<Window[], Free> windows(static_cast<Window*>(calloc(length / kWindow, sizeof(Window))));
  if (windows == nullptr) return nullptr;
  void* at = mmap(nullptr, length, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (at == MAP_FAILED) return nullptr;
  // A page that is not there after all comes alone.
  madvise(at, length, MADV_RANDOM);
  std::unique_ptr<MappedFile> self(new MappedFile());
  self->fd_ = fd;
  self->base_ = static_cast<const uint8_t*>(at);
  self->length_ = length;
  self->windows_ = std::move(windows);
  return self;
}

MappedFile::~MappedFile() { munmap(const_cast<uint8_t*>(base_), length_); }

bool MappedFile::Resident(uint64_t offset, uint64_t bytes, uint64_t now) const {
  const uint64_t last = (offset + bytes - 1) / kPage;
  for (uint64_t page = offset / kPage; page <= last; page++) {
    const Window& w = windows_[page / kWindowPages];
    if (w.until <= now || (w.resident[page % kWindowPages / 64] >> (page % 64) & 1) == 0) return false;
  }
  return true;
}

bool MappedFile::Read(const IoRequest& r, uint64_t bytes) {
  if (bytes == 0 || r.offset >= length_ || bytes > length_ - r.offset || !Resident(r.offset, bytes, Ticks())) return false;
  const uint8_t* from = base_ + r.offset;
  for (uint32_t i = 0; i < r.segments; i++) {
    if (!nyx_copy(r.iov[i].iov_base, from, r.iov[i].iov_len)) {
      Forget(r.offset, bytes);
      return false;
    }
    from += r.iov[i].iov_len;
  }
  return true;
}

void MappedFile::Cached(uint64_t offset, uint64_t bytes) {
  if (bytes == 0 || offset >= length_) return;
  const uint64_t index = offset / kWindow;
  if (++windows_[index].hits >= kHits) Look(index);
}

void MappedFile::Look(uint64_t index) {
  Window& w = windows_[index];
  w.hits = 0;
  struct stat s;
  if (fstat(fd_, &s) != 0) return;
  const auto size = static_cast<uint64_t>(s.st_size);
  const uint64_t at = index * kWindow;
  // The last page, where the file ends within it, stays the kernel's: it would read as zeroes what is not there.
  const uint64_t pages = size <= at ? 0 : (size - at < kWindow ? size - at : kWindow) / kPage;
  unsigned char there[kWindowPages];
  if (pages == 0 || mincore(const_cast<uint8_t*>(base_) + at, pages * kPage, there) != 0) return;
  for (uint64_t& word : w.resident) word = 0;
  for (uint64_t i = 0; i < pages; i++) w.resident[i / 64] |= uint64_t{there[i] & 1u} << (i % 64);
  w.until = Ticks() + kValidTicks;
}

void MappedFile::Forget(uint64_t offset, uint64_t bytes) {
  for (uint64_t i = offset / kWindow; i <= (offset + bytes - 1) / kWindow; i++) windows_[i].until = 0;
}

}  // namespace nyx
