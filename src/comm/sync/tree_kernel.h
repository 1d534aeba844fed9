#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/numerics/tree.h"

namespace lockstep {

/// A completion program made ready to run over arrays: additions of operands and of tiles of scratch. The
/// order of the additions is that of the tree, so equal operands give equal bits on every instruction set.
class SumProgram {
 public:
  SumProgram() = default;
  /// `program` as completion_program() makes it.
  explicit SumProgram(const std::vector<TreeOp>& program);

  std::size_t operands() const { return operands_; }
  /// True when the sum is operand 0 itself: nothing is added.
  bool is_copy() const { return steps_.empty(); }

  /// out[i] = the sum over operands of operand[o][offset + i], for i in [0, n). `out` may be one of the
  /// operands (the same addresses) but must not overlap one otherwise; where it is the only one, nothing is
  /// written. `squares`, unless null, takes the sum of squares of every block of 4,096 results, in float64,
  /// in an order that is the same on every instruction set: one value for every block begun in [0, n). With
  /// `finite_only` it is 0 where all results of the block are finite, and NaN elsewhere.
  void run(std::span<const float* const> operands, std::int64_t offset, std::int64_t n, float* out,
           double* squares, bool finite_only = false) const;

  /// left and right: an operand (>= 0) or tile -1 - x; out: tile x, or -1 for the result.
  struct Step {
    std::int32_t left;
    std::int32_t right;
    std::int32_t out;
  };

 private:
  std::vector<Step> steps_;
  std::size_t operands_ = 0;
};

}  // namespace lockstep
