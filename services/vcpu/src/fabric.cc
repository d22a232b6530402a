#include "fabric.h"

#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace nyx {
namespace {
constexpr uint64_t kWake = ~uint64_t{0};
constexpr int kRetryMs = 2;
}  // namespace

Fabric::Fabric(const Description& description, std::vector<std::unique_ptr<Device>>* devices,
               std::vector<std::unique_ptr<Channel>>* channels, InterruptSink* sink)
    : description_(description), devices_(devices), channels_(channels), sink_(sink), sources_(channels->size()),
      producers_(channels->size()) {
  controllers_[0].device = description.header.pic_device;
  controllers_[0].gsis = 16;
  controllers_[1].device = description.header.ioapic_device;
  controllers_[1].gsis = kGsis;
}

Fabric::~Fabric() {
  Stop();
  if (epoll_ >= 0) close(epoll_);
  if (wake_ >= 0) close(wake_);
}

bool Fabric::Attach(const std::vector<int>& fds, std::string* error) {
  const auto fail = [&](size_t process, const std::string& what) {
    *error = "interrupts of process " + std::to_string(process) + ": " + what;
    return false;
  };
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.u64 = kWake;
  epoll_ctl(epoll_, EPOLL_CTL_ADD, wake_, &event);
  for (size_t p = 0; p < channels_->size(); p++) {
    const auto& process = description_.processes[p];
    auto page = std::make_unique<Mapping>();
    std::string text;
    if (!page->MapAll(fds[process.irq_page_fd], false, &text)) return fail(p, text);
    // Edge-triggered and never read: a read could block if the process drained the eventfd meanwhile.
    event.data.u64 = p;
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fds[process.irq_event_fd], &event) != 0) {
      return fail(p, std::string("its descriptor cannot be watched: ") + strerror(errno));
    }
    pages_.push_back(std::move(page));
    producers_[p].Attach((*channels_)[p].get(), description_.header.cpus, 0, this, &stats_);
  }
  for (const auto& d : description_.devices) {
    if (pages_[d.process]->size() < wire::kIrqEntriesAt + sizeof(wire::IrqEntry) * (uint64_t{d.irq_base} + d.irq_count)) {
      return fail(d.process, "the page is too small for the entries of its devices");
    }
  }
  for (const auto& r : description_.routes) {
    const auto& d = description_.devices[r.device];
    if (r.kind == machine::RouteKind::kNone) continue;
    if (r.kind == machine::RouteKind::kGsi) {
      // A process that has a controller settles its own lines into it.
      bool own = false, wanted = false;
      for (const Controller& c : controllers_) {
        if (c.device == machine::kNone) continue;
        wanted = true;
        own |= description_.devices[c.device].process == d.process;
      }
      if (own || !wanted) continue;
    }
    sources_[d.process].push_back({uint32_t{d.irq_base} + r.entry, r.kind, r.gsi, 0});
  }
  return true;
}

void Fabric::Start() {
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "fabric");
    Loop();
    ended_.store(true);
  });
}

void Fabric::Stop() {
  stopping_.store(true);
  if (!thread_.joinable()) return;
  // Should it be blocked in a kick after all (see Channel::Kick), signals end that.
  while (!ended_.load()) {
    Look(0);
    pthread_kill(thread_.native_handle(), SIGRTMIN);
    usleep(1'000);
  }
  thread_.join();
}

void Fabric::Look(unsigned process) {
  look_.fetch_or(1u << process);
  const uint64_t one = 1;
  // A full counter wakes as well.
  if (write(wake_, &one, sizeof one) < 0) return;
}

void Fabric::Loop() {
  // What happened before the first look counts as well.
  look_.store(~0u);
  while (!stopping_.load()) Turn(sent_ ? -1 : kRetryMs);
}

void Fabric::Turn(int timeout_ms) {
  epoll_event events[16];
  const int n = look_.load() ? 0 : epoll_wait(epoll_, events, 16, timeout_ms);
  std::unique_lock lock(mutex_);
  if (frozen_) {
    look_.store(0);
    sent_ = true;
    return;
  }
  if (changed_) {
    look_.store(0);
    sent_ = true;
    bool news = false;
    for (unsigned p = 0; p < sources_.size(); p++) {
      for (const Source& s : sources_[p]) news |= Load(entries(p)[s.entry].word, std::memory_order_acquire) != s.seen;
    }
    lock.unlock();
    if (news) changed_();
    return;
  }
  for (int i = 0; i < n; i++) {
    if (events[i].data.u64 != kWake) Scan(static_cast<unsigned>(events[i].data.u64));
  }
  for (uint32_t look = look_.exchange(0), p = 0; look; look >>= 1, p++) {
    if (look & 1 && p < sources_.size()) Scan(p);
  }
  sent_ = SendLines();
}

uint32_t Fabric::Settle() {
  std::lock_guard lock(mutex_);
  for (unsigned p = 0; p < sources_.size(); p++) Scan(p);
  uint32_t told = 0;
  for (Controller& c : controllers_) {
    if (c.device == machine::kNone) continue;
    const auto& d = description_.devices[c.device];
    for (unsigned gsi = 0; gsi < c.gsis; gsi++) {
      if (c.told[gsi] == lines_[gsi]) continue;
      const Request q{wire::ExitKind::kLine, 4, d.index, 0, 0, gsi, lines_[gsi]};
      Reply reply;
      if (producers_[d.process].Call(q, &reply) == CallResult::kAbandoned) return 0;
      c.told[gsi] = lines_[gsi];
      told |= 1u << d.process;
    }
  }
  return told;
}

void Fabric::Scan(unsigned process) {
  for (Source& s : sources_[process]) {
    const uint32_t word = Load(entries(process)[s.entry].word, std::memory_order_acquire);
    if (word != s.seen) Deliver(process, s, word);
  }
}

void Fabric::Deliver(unsigned process, Source& s, uint32_t word) {
  const uint32_t before = s.seen;
  s.seen = word;
  switch (s.kind) {
    case machine::RouteKind::kMsi: {
      const wire::IrqEntry& e = entries(process)[s.entry];
      sink_->Msi(Load(e.address), Load(e.data));
      return;
    }
    case machine::RouteKind::kExtint: return sink_->ExtInt(word & 1);
    case machine::RouteKind::kNmi:
      if ((word >> 1) != (before >> 1)) sink_->Nmi(0);
      return;
    case machine::RouteKind::kGsi: {
      // Sources may share a GSI: their edges add up, their levels are or-ed (wired-or).
      uint32_t edges = 0, level = 0;
      for (const auto& all : sources_) {
        for (const Source& other : all) {
          if (other.kind != machine::RouteKind::kGsi || other.gsi != s.gsi) continue;
          edges += other.seen >> 1;
          level |= other.seen & 1;
        }
      }
      lines_[s.gsi] = edges << 1 | level;
      return;
    }
  }
}

bool Fabric::SendLines() {
  bool all = true;
  for (Controller& c : controllers_) {
    if (c.device == machine::kNone) continue;
    const auto& d = description_.devices[c.device];
    for (unsigned gsi = 0; gsi < c.gsis; gsi++) {
      if (c.told[gsi] == lines_[gsi]) continue;
      const Request q{wire::ExitKind::kLine, 4, d.index, 0, 0, gsi, lines_[gsi]};
      if (!producers_[d.process].TryPost(q)) {
        all = false;
        break;
      }
      c.told[gsi] = lines_[gsi];
    }
  }
  return all;
}

bool Fabric::Reset() {
  std::lock_guard lock(mutex_);
  for (const auto& d : *devices_) {
    const Request q{wire::ExitKind::kReset, 0, d->description.index, 0, 0, 0, 0};
    Reply reply;
    if (producers_[d->description.process].Call(q, &reply) == CallResult::kAbandoned) return false;
  }
  lines_.fill(0);
  for (Controller& c : controllers_) c.told.fill(0);
  // Words begin anew: what they say now is no message, but a line that is high after reset is high.
  for (unsigned p = 0; p < sources_.size(); p++) {
    for (Source& s : sources_[p]) {
      const uint32_t word = Load(entries(p)[s.entry].word, std::memory_order_acquire);
      s.seen = word;
      if (s.kind == machine::RouteKind::kExtint || s.kind == machine::RouteKind::kGsi) Deliver(p, s, word);
    }
  }
  SendLines();
  return true;
}

}  // namespace nyx
