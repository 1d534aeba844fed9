#pragma once

#include <cstddef>
#include <span>

#include "device/cuda/stream.h"

namespace lockstep::cuda {

namespace detail {
void free_device(void* memory) noexcept;
void free_pinned(void* memory) noexcept;
}  // namespace detail

/// Memory of the current device, zeroed, aligned to 256 bytes. No bytes are no memory: data() is null.
/// Kernels see it, the host does not.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  /// Throws DeviceError that names the size when there is no memory.
  explicit DeviceBuffer(std::size_t bytes);
  std::byte* data() noexcept { return static_cast<std::byte*>(memory_.get()); }
  const std::byte* data() const noexcept { return static_cast<const std::byte*>(memory_.get()); }
  std::size_t size() const noexcept { return memory_ ? bytes_ : 0; }
  /// Device addresses: for kernels and copies, not to be read by the host.
  template <class T>
  std::span<T> as() noexcept {
    return {reinterpret_cast<T*>(data()), size() / sizeof(T)};
  }
  template <class T>
  std::span<const T> as() const noexcept {
    return {reinterpret_cast<const T*>(data()), size() / sizeof(T)};
  }

 private:
  Unique<void*, detail::free_device> memory_;
  std::size_t bytes_ = 0;
};

/// Host memory that the device can reach, zeroed: copies to and from it run at full speed beside kernels, and
/// kernels read and write it in place through device_data().
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(std::size_t bytes);
  std::byte* data() noexcept { return static_cast<std::byte*>(memory_.get()); }
  const std::byte* data() const noexcept { return static_cast<const std::byte*>(memory_.get()); }
  /// The same memory as kernels address it.
  std::byte* device_data() const noexcept { return static_cast<std::byte*>(mapped_); }
  std::size_t size() const noexcept { return memory_ ? bytes_ : 0; }
  template <class T>
  std::span<T> as() noexcept {
    return {reinterpret_cast<T*>(data()), size() / sizeof(T)};
  }
  template <class T>
  std::span<const T> as() const noexcept {
    return {reinterpret_cast<const T*>(data()), size() / sizeof(T)};
  }

 private:
  Unique<void*, detail::free_pinned> memory_;
  void* mapped_ = nullptr;
  std::size_t bytes_ = 0;
};

/// Copies enqueued on `stream`; the host memory should be pinned. The caller keeps both sides alive until
/// they are done.
void copy_to_device(void* device, const void* host, std::size_t bytes, const Stream& stream);
void copy_to_host(void* host, const void* device, std::size_t bytes, const Stream& stream);
void copy_on_device(void* to, const void* from, std::size_t bytes, const Stream& stream);

}  // namespace lockstep::cuda
