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
  /// written. `marks`, unless null, takes the finite_mark() of every block of 4,096 results, one for every
  /// block begun in [0, n).
  void run(std::span<const float* const> operands, std::int64_t offset, std::int64_t n, float* out,
           double* marks) const;

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
