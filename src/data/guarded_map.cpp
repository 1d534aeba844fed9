#include "data/guarded_map.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <fmt/format.h>
#include <mutex>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

#include "core/error.h"

namespace lockstep {

/// Free where `begin` is 0.
struct GuardedMap::Slot {
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<std::uintptr_t> end{0};
  std::atomic<bool> lost{false};
};

namespace {

// A handler takes no lock and calls no allocator: it walks a list of blocks to which others only add.
struct Block {
  std::array<GuardedMap::Slot, 256> slots;
  std::atomic<Block*> next{nullptr};
};
static_assert(std::atomic<std::uintptr_t>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

Block first_block;
std::mutex slots_mutex;  // held while a slot is taken or given back
struct sigaction previous {};
std::atomic<std::uintptr_t> page_bytes{0};

/// Puts zeros in the place of the page and of all behind it in its map: a file that is cut short has lost
/// them too.
bool replace_lost(std::uintptr_t address) {
  const std::uintptr_t page = address & ~(page_bytes.load() - 1);
  for (Block* block = &first_block; block != nullptr; block = block->next.load()) {
    for (GuardedMap::Slot& slot : block->slots) {
      const std::uintptr_t begin = slot.begin.load(), end = slot.end.load();
      if (begin == 0 || address < begin || address >= end) continue;
      void* zeros = ::mmap(reinterpret_cast<void*>(page), end - page, PROT_READ,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      if (zeros == MAP_FAILED) return false;
      slot.lost.store(true);
      return true;
    }
  }
  return false;
}

void on_bus_error(int signal, siginfo_t* info, void* context) {
  const int kept = errno;
  const bool replaced = info->si_code > 0 && replace_lost(reinterpret_cast<std::uintptr_t>(info->si_addr));
  errno = kept;
  if (replaced) return;
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(signal, info, context);
  } else if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
    // The access is tried again, and then ends the process as if nobody had taken the signal.
    ::signal(signal, SIG_DFL);
    if (info->si_code <= 0) ::raise(signal);
  } else {
    previous.sa_handler(signal);
  }
}

/// Under slots_mutex.
void take_over_signal() {
  if (page_bytes.load() != 0) return;
  page_bytes.store(static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE)));
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigemptyset(&action.sa_mask);
  if (::sigaction(SIGBUS, &action, &previous) != 0)
    throw InternalError(fmt::format("SIGBUS cannot be taken over: {}", std::strerror(errno)));
}

/// Under slots_mutex.
GuardedMap::Slot* free_slot() {
  for (Block* block = &first_block;; block = block->next.load()) {
    for (GuardedMap::Slot& slot : block->slots)
      if (slot.begin.load() == 0) return &slot;
    if (block->next.load() == nullptr) block->next.store(new Block);
  }
}

}  // namespace

GuardedMap::GuardedMap(int fd, std::size_t size, const std::string& path) : size_(size) {
  require(size > 0, "a file without bytes cannot be mapped");
  const std::lock_guard lock(slots_mutex);
  take_over_signal();
  Slot* slot = free_slot();
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (data == MAP_FAILED)
    throw InputError(
        fmt::format("cannot map '{}': {}; data.read = read needs no map", path, std::strerror(errno)));
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t page = page_bytes.load();
  slot->lost.store(false);
  slot->end.store((begin + size + page - 1) & ~(page - 1));
  slot->begin.store(begin);
  slot_ = slot;
  data_ = static_cast<const std::byte*>(data);
}

GuardedMap::~GuardedMap() {
  if (data_ == nullptr) return;
  const std::lock_guard lock(slots_mutex);
  slot_->begin.store(0);
  ::munmap(const_cast<std::byte*>(data_), size_);
}

GuardedMap::GuardedMap(GuardedMap&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      slot_(std::exchange(other.slot_, nullptr)) {}

GuardedMap& GuardedMap::operator=(GuardedMap&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(slot_, other.slot_);
  return *this;
}

bool GuardedMap::lost() const noexcept {
  return slot_ != nullptr && slot_->lost.load();
}

}  // namespace lockstep
