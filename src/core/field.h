#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/shape.h"

namespace lockstep {

/// A named, typed column of a data set: what every sample has under this name. The same words say what a
/// graph takes.
struct Field {
  std::string name;
  DType type = DType::f32;  ///< f32, u8 or i32
  Shape shape;              ///< of one sample; rank 0 for one number. Of a ragged field extent 0 is the most
  bool ragged = false;      ///< extent 0 differs from sample to sample: its length
  double pad = 0;           ///< what stands beyond a sample's length

  std::int64_t elements() const { return shape.elements(); }
  /// Bytes of one entry of extent 0.
  std::size_t entry_bytes() const {
    return shape.rank() == 0 || shape[0] == 0 ? bytes() : bytes() / static_cast<std::size_t>(shape[0]);
  }
  std::size_t bytes() const { return static_cast<std::size_t>(elements()) * size_of(type); }
};

/// One field of the rows of a slice. Empty where the field was left out.
struct FieldRows {
  DType type = DType::f32;
  std::span<const std::byte> data;        ///< (rows, elements), row-major; empty rows hold zeros
  std::span<const std::int32_t> lengths;  ///< (rows) of a ragged field; 0 of empty rows

  bool empty() const { return data.empty(); }
  /// The numbers; T must be the field's type.
  template <class T>
  std::span<const T> as() const {
    return {reinterpret_cast<const T*>(data.data()), data.size() / sizeof(T)};
  }
  FieldRows() = default;
  explicit FieldRows(std::span<const float> values) : type(DType::f32), data(std::as_bytes(values)) {}
  explicit FieldRows(std::span<const std::int32_t> values) : type(DType::i32), data(std::as_bytes(values)) {}
  explicit FieldRows(std::span<const std::uint8_t> values) : type(DType::u8), data(std::as_bytes(values)) {}
};

}  // namespace lockstep
