#pragma once

#include <cstddef>
#include <memory>
#include <span>

namespace lockstep {

/// Bytes to which every buffer that kernels see is aligned at least.
inline constexpr std::size_t buffer_alignment = 64;

/// Of this machine: 4 KiB on most, 64 KiB on some.
std::size_t page_bytes();

/// Private memory of this rank, zeroed, aligned to a page; from 2 MiB up aligned to 2 MiB, with huge pages
/// asked for. No bytes are no memory: data() is null.
class HostBuffer {
 public:
  HostBuffer() = default;
  /// Throws DeviceError that names the size when there is no memory.
  explicit HostBuffer(std::size_t bytes);
  std::byte* data() noexcept { return data_.get(); }
  const std::byte* data() const noexcept { return data_.get(); }
  std::size_t size() const noexcept { return data_ ? data_.get_deleter().size : 0; }
  template <class T>
  std::span<T> as() noexcept {
    return {reinterpret_cast<T*>(data_.get()), size() / sizeof(T)};
  }
  template <class T>
  std::span<const T> as() const noexcept {
    return {reinterpret_cast<const T*>(data_.get()), size() / sizeof(T)};
  }

 private:
  struct Unmap {
    std::size_t size;    ///< bytes asked for
    std::size_t mapped;  ///< bytes to give back
    void operator()(std::byte* p) const noexcept;
  };
  std::unique_ptr<std::byte, Unmap> data_{nullptr, Unmap{0, 0}};
};

/// The next multiple of `alignment` (a power of two).
constexpr std::size_t align_up(std::size_t n, std::size_t alignment) {
  return (n + alignment - 1) & ~(alignment - 1);
}

}  // namespace lockstep
