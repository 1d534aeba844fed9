#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace lockstep {

/// The address of elements in a device's memory: never an address that the host can read, and only what
/// copies or hands work to the device asks for the plain one. Owns nothing.
template <class T>
class DevicePointer {
 public:
  constexpr DevicePointer() = default;
  constexpr explicit DevicePointer(T* address) : address_(address) {}
  /// To elements that are only read.
  template <class U>
  requires std::is_same_v<const U, T>
  constexpr DevicePointer(DevicePointer<U> other) : address_(other.address()) {}

  /// For a copy, a kernel or a call of a library; the host must not read or write there.
  constexpr T* address() const { return address_; }
  constexpr explicit operator bool() const { return address_ != nullptr; }
  constexpr DevicePointer operator+(std::int64_t elements) const {
    return DevicePointer(address_ + elements);
  }
  friend constexpr bool operator==(DevicePointer, DevicePointer) = default;

 private:
  T* address_ = nullptr;
};

/// So many elements from an address in a device's memory on. Owns nothing.
template <class T>
class DeviceSpan {
 public:
  constexpr DeviceSpan() = default;
  constexpr DeviceSpan(DevicePointer<T> data, std::size_t size) : data_(data), size_(size) {}
  /// To elements that are only read.
  template <class U>
  requires std::is_same_v<const U, T>
  constexpr DeviceSpan(DeviceSpan<U> other) : data_(other.data()), size_(other.size()) {}

  constexpr DevicePointer<T> data() const { return data_; }
  constexpr std::size_t size() const { return size_; }

 private:
  DevicePointer<T> data_;
  std::size_t size_ = 0;
};

/// What an interface that serves host and device alike tells of memory that is known to be a device's.
template <class T>
constexpr DeviceSpan<T> on_device(std::span<T> elements) {
  return {DevicePointer<T>(elements.data()), elements.size()};
}

}  // namespace lockstep
