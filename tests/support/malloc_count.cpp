#include "support/malloc_count.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <execinfo.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)

namespace lockstep::test {
std::size_t malloc_count() {
  return 0;
}
bool malloc_is_counted() {
  return false;
}
void watch_callers() {}
void write_callers(int) {}
UncountedSmallBlocks::UncountedSmallBlocks() noexcept = default;
UncountedSmallBlocks::~UncountedSmallBlocks() = default;
}  // namespace lockstep::test

#else

namespace {
std::atomic<std::size_t> calls{0};

// The first callers since watch_callers(). backtrace() may itself take memory the first time it runs.
constexpr int kept = 4, depth = 24;
std::array<std::array<void*, depth>, kept> stacks;
std::array<int, kept> depths{};
std::atomic<int> watched{kept};
thread_local bool looking = false;

constexpr std::size_t small_block = 512;
constexpr int small_blocks = 64;
thread_local int uncounted = 0;  // small blocks that this thread may still take without being counted

bool is_uncounted(std::size_t size) noexcept {
  if (uncounted == 0 || size > small_block) return false;
  --uncounted;
  return true;
}

void count() noexcept {
  calls.fetch_add(1, std::memory_order_relaxed);
  if (looking || watched.load(std::memory_order_relaxed) >= kept) return;
  looking = true;
  if (const int i = watched.fetch_add(1); i < kept) {
    const auto at = static_cast<std::size_t>(i);
    depths[at] = backtrace(stacks[at].data(), depth);
  }
  looking = false;
}
}  // namespace

// A program's own malloc replaces that of the C library, which keeps its own under these names.
extern "C" {
// NOLINTBEGIN(bugprone-reserved-identifier): the names are the C library's
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* old, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
// NOLINTEND(bugprone-reserved-identifier)

void* malloc(std::size_t size) {
  if (!is_uncounted(size)) count();
  return __libc_malloc(size);
}
void* calloc(std::size_t n, std::size_t size) {
  count();
  return __libc_calloc(n, size);
}
void* realloc(void* old, std::size_t size) {
  count();
  return __libc_realloc(old, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  count();
  return __libc_memalign(alignment, size);
}
void* mmap(void* address, std::size_t size, int protection, int flags, int fd, off_t offset) {
  count();
  // NOLINTNEXTLINE(performance-no-int-to-ptr): the system call gives the address as a number
  return reinterpret_cast<void*>(syscall(SYS_mmap, address, size, protection, flags, fd, offset));
}
int posix_memalign(void** out, std::size_t alignment, std::size_t size) {
  count();
  *out = __libc_memalign(alignment, size);
  return *out == nullptr ? ENOMEM : 0;
}
}

namespace lockstep::test {
std::size_t malloc_count() {
  return calls.load(std::memory_order_relaxed);
}
bool malloc_is_counted() {
  return true;
}
UncountedSmallBlocks::UncountedSmallBlocks() noexcept {
  uncounted = small_blocks;
}
UncountedSmallBlocks::~UncountedSmallBlocks() {
  uncounted = 0;
}
void watch_callers() {
  void* once[1];
  backtrace(once, 1);
  watched = 0;
}
void write_callers(int fd) {
  const int seen = std::min(watched.exchange(kept), kept);
  for (int i = 0; i < seen; ++i) {
    const auto at = static_cast<std::size_t>(i);
    backtrace_symbols_fd(stacks[at].data(), depths[at], fd);
    if (write(fd, "\n", 1) < 0) return;
  }
}
}  // namespace lockstep::test

#endif
