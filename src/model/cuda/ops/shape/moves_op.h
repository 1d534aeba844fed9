#pragma once

#include "model/cuda/ops/own_work.h"
#include "model/ops/shape/moves.h"

namespace lockstep::cuda {

/// Item: (row, element of the block).
template <class T>
struct MoveBlock {
  const T* from;
  T* to;
  BlockCopy block;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t row = i / block.elements();
    std::int64_t x = 0, y = 0;
    block.places(i - row * block.elements(), x, y);
    to[row * block.to_row + y] = from[row * block.from_row + x];
  }
};

/// Item: element.
template <class T>
struct ClearValue {
  T* to;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const { store(to[i], 0.0f); }
};

/// An op that only moves elements (model/ops/shape/moves.h).
template <class Moves>
const OwnOp& moves_op() {
  static const OwnOp op = {
      [](const OpNode&, const lockstep::Graph&, std::int64_t) { return OwnNeeds{}; },
      [](const OwnCall& call) {
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          const auto blocks = Moves::of(call.node.attrs, ops::input_shapes(call.node, call.graph),
                                        call.graph.shape_of(call.node.output), true);
          for (std::size_t k = 0; k < blocks.size(); ++k)
            call.launcher.each(
                call.rows * blocks[k].elements(),
                MoveBlock<T>{static_cast<const T*>(call.x[k]), static_cast<T*>(call.y), blocks[k]});
        });
      },
      [](const OwnCall& call) {
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          const auto blocks = Moves::of(call.node.attrs, ops::input_shapes(call.node, call.graph),
                                        call.graph.shape_of(call.node.output), true);
          for (std::size_t k = 0; k < blocks.size(); ++k) {
            auto* dx = static_cast<T*>(call.dx[k]);
            if (dx == nullptr) continue;
            const std::int64_t all = call.elements(call.node.inputs[k]);
            if (call.rows * blocks[k].elements() < all) call.launcher.each(all, ClearValue<T>{dx});
            call.launcher.each(call.rows * blocks[k].elements(),
                               MoveBlock<T>{static_cast<const T*>(call.dy), dx, blocks[k].reversed()});
          }
        });
      }};
  return op;
}

}  // namespace lockstep::cuda
