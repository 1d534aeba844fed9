#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/batch.h"
#include "model/graph/graph.h"

namespace lockstep {

/// Writes the lengths of all rows of a slice, (Graph::lengths, rows), to `out`; 0 of empty rows. Throws
/// InternalError for a length that its field's extent does not hold.
void fill_row_lengths(const Graph& graph, const Batch& batch, std::span<std::int32_t> out);

/// Zeros behind the length of each row: `values` is (rows, extent, features) of T, row r keeps its first
/// lengths[r] entries.
template <class T>
void clear_padding(T* values, std::span<const std::int32_t> lengths, std::int64_t extent,
                   std::int64_t features) {
  for (std::size_t r = 0; r < lengths.size(); ++r) {
    T* row = values + static_cast<std::int64_t>(r) * extent * features;
    for (std::int64_t i = lengths[r] * features; i < extent * features; ++i) row[i] = T{};
  }
}

/// A ragged value whose positions beyond the lengths must be made zeros, after the op that computes it and
/// before its backward pass.
struct PaddingMask {
  int lengths = -1;  ///< place in Graph::lengths; -1: nothing to do
  std::int64_t extent = 0, features = 0;
};
/// The mask behind `node`, which computes `value`.
PaddingMask padding_mask(const Graph& graph, const OpNode& node, ValueId value);

}  // namespace lockstep
