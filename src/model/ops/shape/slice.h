#pragma once

#include <cstdint>
#include <vector>

#include "model/graph/op_entry.h"
#include "model/graph/strides.h"

namespace lockstep::ops {

const OpEntry& slice_op();

}  // namespace lockstep::ops

namespace lockstep {

/// Elements [begin, end) along one axis of a sample.
struct SliceAttrs {
  std::int64_t axis = 0;
  std::int64_t begin = 0, end = 0;
  static const OpEntry& entry() { return ops::slice_op(); }
};

/// What it does, as model/ops/shape/moves.h asks.
struct SliceMoves {
  static std::vector<BlockCopy> of(const OpAttrs& attrs, const std::vector<Shape>& inputs,
                                   const Shape& output, bool channels_last) {
    const auto& a = attrs.as<SliceAttrs>();
    const Strides from(inputs[0], channels_last), to(output, channels_last);
    BlockCopy block(from, to);
    block.from_offset = a.begin * from.step[static_cast<std::size_t>(a.axis)];
    return {block};
  }
};

}  // namespace lockstep
