#pragma once

#include <cstdint>
#include <span>

#include "core/numerics/augmentation.h"

namespace lockstep {

/// The data of one slice. Rows [0, valid) are samples; the others are empty, hold zeros, and carry weight 0.
struct SliceBatch {
  std::int64_t slice = 0;  ///< global number
  std::int64_t rows = 0;
  std::int64_t valid = 0;
  std::span<const std::int64_t> samples;  ///< (rows) global sample index; -1 where empty
  std::span<const float> input;           ///< (rows, sample elements), plain row-major
  std::span<const std::int32_t> labels;   ///< (rows), cross-entropy
  std::span<const float> targets;         ///< (rows, outputs), mean squared error
  /// With ExecutorOptions::augments, else empty: what the executor does to `input`, (rows), and what pixels
  /// outside an image are, (channels).
  std::span<const ImageMove> moves = {};
  std::span<const float> padding = {};
};

}  // namespace lockstep
