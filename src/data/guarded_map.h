#pragma once

#include <atomic>
#include <cstddef>
#include <span>
#include <string>

namespace lockstep {

/// A file mapped for reading whose pages may be lost while it is used: it is cut short, or its disk fails. A
/// read of such a page gives zeros instead of ending the process with SIGBUS, and lost() says so from then
/// on. Ranks of a host that map the same file share its pages, which count as the system's cache.
///
/// The first map installs a handler of SIGBUS for the whole process. A SIGBUS outside of all maps goes to the
/// handler that was there before. The signal must not be blocked in a thread that reads.
class GuardedMap {
 public:
  GuardedMap() = default;
  /// `fd`: an open file of `size` bytes, which may be closed afterwards; `path` for messages. InputError
  /// where it cannot be mapped.
  GuardedMap(int fd, std::size_t size, const std::string& path);
  ~GuardedMap();
  GuardedMap(GuardedMap&& other) noexcept;
  GuardedMap& operator=(GuardedMap&& other) noexcept;

  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  /// Whether a page could not be read. Any thread may ask.
  bool lost() const noexcept;

  /// What the signal handler knows of a map.
  struct Slot;

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  Slot* slot_ = nullptr;
};

}  // namespace lockstep
