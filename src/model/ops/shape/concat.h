#pragma once

#include <cstdint>
#include <vector>

#include "model/graph/op_entry.h"
#include "model/graph/strides.h"

namespace lockstep::ops {

const OpEntry& concat_op();

}  // namespace lockstep::ops

namespace lockstep {

/// Two to four values one behind the other along one axis; the other extents are equal.
struct ConcatAttrs {
  std::int64_t axis = 0;
  static const OpEntry& entry() { return ops::concat_op(); }
};

/// What it does, as model/ops/shape/moves.h asks.
struct ConcatMoves {
  static std::vector<BlockCopy> of(const OpAttrs& attrs, const std::vector<Shape>& inputs,
                                   const Shape& output, bool channels_last) {
    const auto axis = static_cast<std::size_t>(attrs.as<ConcatAttrs>().axis);
    const Strides to(output, channels_last);
    std::vector<BlockCopy> blocks;
    std::int64_t before = 0;
    for (const Shape& input : inputs) {
      const Strides from(input, channels_last);
      BlockCopy block(from, to);
      for (std::size_t i = 0; i < most_axes; ++i) block.extent[i] = from.extent[i];
      block.to_offset = before * to.step[axis];
      blocks.push_back(block);
      before += input[axis];
    }
    return blocks;
  }
};

}  // namespace lockstep
