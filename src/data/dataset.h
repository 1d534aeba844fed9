#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/shape.h"

namespace lockstep {

/// Samples in memory, by index. Read-only after construction, shared by all threads of the rank.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual std::int64_t size() const = 0;
  virtual const Shape& sample_shape() const = 0;
  /// Classification: the label of a sample. InternalError when the set has none.
  virtual std::int32_t label(std::int64_t index) const = 0;
  virtual bool has_labels() const = 0;
  /// Regression: the targets of a sample, target_width() numbers.
  virtual void target(std::int64_t index, std::span<float> out) const = 0;
  virtual std::int64_t target_width() const = 0;
  /// The raw input, row-major, not normalised.
  virtual void input(std::int64_t index, std::span<float> out) const = 0;
  /// The same in place where the set stores it as bytes, or as floats; else empty. Valid as long as the set.
  virtual std::span<const std::uint8_t> input_bytes(std::int64_t index) const;
  virtual std::span<const float> input_floats(std::int64_t index) const;
  /// What it is and where it came from, for messages and `inspect`.
  virtual std::string describe() const = 0;
  /// Where a sample stands in its file, for messages: "'a.csv' line 17".
  virtual std::string where(std::int64_t index) const;
};

}  // namespace lockstep
