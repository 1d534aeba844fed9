#include "device/memory.h"

#include <cerrno>
#include <cstdint>
#include <fmt/format.h>
#include <limits>
#include <sys/mman.h>
#include <system_error>
#include <unistd.h>

#include "core/error.h"
#include "core/text.h"

namespace lockstep {
namespace {

constexpr std::size_t huge_page = std::size_t{2} << 20;

}  // namespace

std::size_t page_bytes() {
  static const auto asked = ::sysconf(_SC_PAGESIZE);
  return asked > 0 ? static_cast<std::size_t>(asked) : 4096;
}

void HostBuffer::Unmap::operator()(std::byte* p) const noexcept {
  ::munmap(p, mapped);
}

HostBuffer::HostBuffer(std::size_t bytes) {
  if (bytes == 0) return;
  const auto fail = [bytes](int error) {
    throw DeviceError(fmt::format("cannot get {} of memory: {}", human_bytes(bytes),
                                  std::generic_category().message(error)));
  };
  if (bytes > std::numeric_limits<std::size_t>::max() - 2 * huge_page) fail(ENOMEM);
  const bool huge = bytes >= huge_page;
  const std::size_t mapped = align_up(bytes, page_bytes());
  // The kernel places maps at any page; huge pages need their own alignment, so more is mapped and the ends
  // are given back.
  const std::size_t surplus = huge ? huge_page : 0;
  void* const map =
      ::mmap(nullptr, mapped + surplus, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) fail(errno);
  auto* data = static_cast<std::byte*>(map);
  if (huge) {
    const auto address = reinterpret_cast<std::uintptr_t>(map);
    const std::size_t head = align_up(address, huge_page) - address;
    if (head > 0) ::munmap(data, head);
    data += head;
    if (head < surplus) ::munmap(data + mapped, surplus - head);
    // Advice: where the kernel has no huge pages, ordinary ones serve.
    ::madvise(data, mapped, MADV_HUGEPAGE);
  }
  data_ = std::unique_ptr<std::byte, Unmap>(data, Unmap{bytes, mapped});
}

}  // namespace lockstep
