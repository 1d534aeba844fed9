#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/field.h"

namespace lockstep {

/// The data of one slice. Rows [0, valid) are samples; the others are empty, hold zeros, and carry weight 0.
struct Batch {
  std::int64_t slice = 0;  ///< global number
  std::int64_t rows = 0;
  std::int64_t valid = 0;
  std::int64_t epoch = 0;
  int length_class = 0;  ///< which graph of a family it is for; all slices of a global batch have the same
  std::span<const std::int64_t> samples;  ///< (rows) global sample index; -1 where empty
  std::span<const FieldRows> fields;      ///< in the order of Graph::fields

  /// A field by its place in Graph::fields; an empty one where it was left out.
  FieldRows field(std::size_t index) const { return index < fields.size() ? fields[index] : FieldRows{}; }
};

}  // namespace lockstep
