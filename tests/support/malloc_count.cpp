#include "support/malloc_count.h"

#include <atomic>
#include <cerrno>
#include <cstddef>
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
}  // namespace lockstep::test

#else

namespace {
std::atomic<std::size_t> calls{0};
void count() noexcept {
  calls.fetch_add(1, std::memory_order_relaxed);
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
  count();
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
}  // namespace lockstep::test

#endif
