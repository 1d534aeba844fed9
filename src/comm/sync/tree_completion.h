#pragma once

#include <cstdint>
#include <vector>

#include "core/numerics/tree.h"

// The completion of the canonical tree as kernels run it: one pass over the parts, element by element.
// Everything here is the same code on the host and on a device.

namespace lockstep {

/// A completion program as counts: after part i is pushed, merges[i] times the two sums on top are added, the
/// lower one on the left. Parts are taken in order, so this says as much as the list of instructions.
struct MergeProgram {
  std::vector<std::uint8_t> merges;  ///< one per part
  int depth = 1;                     ///< the most sums that wait at once
};

/// From a completion program of core/numerics/tree.h. Throws InternalError when it does not take its parts in
/// order or does not leave one sum.
MergeProgram merge_program(const std::vector<TreeOp>& program);
/// ((0 + 1) + 2) + …: for sums whose order nobody promises.
MergeProgram chain_program(std::size_t parts);

/// Sums that wait, in registers: places are told apart by comparison, not by address, so a compiler that
/// unrolls the loops over Depth keeps them there. `Value` needs operator+.
template <class Value, int Depth>
class SumStack {
 public:
  LOCKSTEP_HOST_DEVICE void push(Value value) {
    for (int place = 0; place < Depth; ++place)
      if (place == size_) sums_[place] = value;
    ++size_;
  }
  /// The two on top become their sum.
  LOCKSTEP_HOST_DEVICE void merge() {
    for (int place = 0; place + 1 < Depth; ++place)
      if (place == size_ - 2) sums_[place] = sums_[place] + sums_[place + 1];
    --size_;
  }
  LOCKSTEP_HOST_DEVICE Value result() const { return sums_[0]; }

 private:
  Value sums_[Depth]{};
  int size_ = 0;
};

/// Where the parts of one chunk lie: this rank's own ones in its slots, those of other ranks one behind the
/// other in the order of the tree.
struct CompletionOperands {
  const float* own = nullptr;   ///< the chunk in slot 0
  std::int64_t own_stride = 0;  ///< elements from slot to slot
  std::int32_t own_first = 0;   ///< number of the first own part
  std::int32_t own_count = 0;
  const float* received = nullptr;  ///< the chunk's first foreign part
  std::int64_t received_stride = 0;
};

/// The address of part `part` of the chunk.
LOCKSTEP_HOST_DEVICE constexpr const float* operand_of(const CompletionOperands& from, std::int32_t part) {
  if (part < from.own_first) return from.received + part * from.received_stride;
  const std::int32_t own = part - from.own_first;
  if (own < from.own_count) return from.own + own * from.own_stride;
  return from.received + (part - from.own_count) * from.received_stride;
}

/// The sum of element `i` of all parts along the program. `load(address)` reads one Value.
template <int Depth, class Value, class Load>
LOCKSTEP_HOST_DEVICE Value complete_element(const CompletionOperands& from, const std::uint8_t* merges,
                                            std::int32_t parts, std::int64_t i, Load load) {
  SumStack<Value, Depth> stack;
  for (std::int32_t part = 0; part < parts; ++part) {
    stack.push(load(operand_of(from, part) + i));
    for (std::uint8_t m = merges[part]; m > 0; --m) stack.merge();
  }
  return stack.result();
}

/// Depths that kernels are compiled for; a program takes the first that holds it.
inline constexpr int completion_depths[] = {2, 4, 8, 40};

}  // namespace lockstep
