#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

namespace lockstep {

enum class DType { f32, f64, i32, i64, u8 };

/// Bytes of one element.
std::size_t size_of(DType dtype);
/// The name that safetensors uses: "F32", "F64", "I32", "I64", "U8".
const char* name_of(DType dtype);

/// Extents of a tensor, outermost first. In a graph the leading batch dimension is left out: the
/// shape of a value is that of one sample, e.g. (channels, height, width) or (features).
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) : dims_(dims) {}
  explicit Shape(std::vector<std::int64_t> dims) : dims_(std::move(dims)) {}

  std::size_t rank() const noexcept { return dims_.size(); }
  std::int64_t operator[](std::size_t i) const { return dims_.at(i); }
  const std::vector<std::int64_t>& dims() const noexcept { return dims_; }
  auto begin() const noexcept { return dims_.begin(); }
  auto end() const noexcept { return dims_.end(); }
  /// Product of the extents; 1 for rank 0; the largest int64 when the product is larger (a file may lie).
  std::int64_t elements() const noexcept;
  /// "32x26x26"; "scalar" for rank 0.
  std::string text() const;

  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  std::vector<std::int64_t> dims_;
};

}  // namespace lockstep
