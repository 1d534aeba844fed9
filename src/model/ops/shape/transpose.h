#pragma once

#include <cstdint>
#include <vector>

#include "model/graph/op_entry.h"
#include "model/graph/strides.h"

namespace lockstep::ops {

const OpEntry& transpose_op();

}  // namespace lockstep::ops

namespace lockstep {

/// The axes of a sample in another order: axis i of the output is axis axes[i] of the input.
struct TransposeAttrs {
  std::vector<std::int64_t> axes;
  static const OpEntry& entry() { return ops::transpose_op(); }
};

/// What it does, as model/ops/shape/moves.h asks.
struct TransposeMoves {
  static std::vector<BlockCopy> of(const OpAttrs& attrs, const std::vector<Shape>& inputs,
                                   const Shape& output, bool channels_last) {
    const auto& axes = attrs.as<TransposeAttrs>().axes;
    const Strides from(inputs[0], channels_last), to(output, channels_last);
    BlockCopy block(from, to);
    for (std::size_t i = 0; i < axes.size(); ++i)
      block.from_step[i] = from.step[static_cast<std::size_t>(axes[i])];
    return {block};
  }
};

}  // namespace lockstep
