#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "model/cpu/kernels/own_kernel.h"
#include "model/ops/shape/moves.h"

namespace lockstep::cpu {

/// An op that only moves elements (model/ops/shape/moves.h). Rows are split among tasks.
class MovesKernel final : public OwnKernel {
 public:
  MovesKernel(const std::string& name, const KernelSpec& spec, std::vector<BlockCopy> blocks)
      : OwnKernel(name, spec, split_rows(spec)), blocks_(std::move(blocks)) {
    for (const ValueLayout& input : spec.inputs) {
      require(input.block == 1, "this op takes plain values");
      input_elements_.push_back(input.elements());
    }
  }

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    for (std::size_t k = 0; k < blocks_.size(); ++k)
      copy(blocks_[k], floats(ctx.arena, at.inputs[k]), floats(ctx.arena, at.output), split().part(task));
  }
  void backward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const Range rows = split().part(task);
    for (std::size_t k = 0; k < blocks_.size(); ++k) {
      float* dx = diff_input(at, ctx, k);
      if (dx == nullptr) continue;
      if (blocks_[k].elements() < input_elements_[k])
        std::fill(dx + rows.begin * input_elements_[k], dx + rows.end * input_elements_[k], 0.0f);
      copy(blocks_[k].reversed(), floats(ctx.arena, at.diff_output), dx, rows);
    }
  }

 private:
  static void copy(const BlockCopy& b, const float* from, float* to, Range rows) {
    for (std::int64_t row = rows.begin; row < rows.end; ++row)
      for (std::int64_t i0 = 0; i0 < b.extent[0]; ++i0)
        for (std::int64_t i1 = 0; i1 < b.extent[1]; ++i1)
          for (std::int64_t i2 = 0; i2 < b.extent[2]; ++i2) {
            const float* x = from + row * b.from_row + b.from_offset + i0 * b.from_step[0] +
                             i1 * b.from_step[1] + i2 * b.from_step[2];
            float* y =
                to + row * b.to_row + b.to_offset + i0 * b.to_step[0] + i1 * b.to_step[1] + i2 * b.to_step[2];
            for (std::int64_t i3 = 0; i3 < b.extent[3]; ++i3) y[i3 * b.to_step[3]] = x[i3 * b.from_step[3]];
          }
  }
  std::vector<BlockCopy> blocks_;
  std::vector<std::int64_t> input_elements_;
};

/// The kernel of the op that `Moves` describes.
template <class Moves>
std::unique_ptr<Kernel> make_moves(const char* name, const KernelSpec& spec) {
  const OpNode& node = spec.op();
  return std::make_unique<MovesKernel>(
      name, spec,
      Moves::of(node.attrs, ops::input_shapes(node, *spec.graph), spec.graph->shape_of(node.output), false));
}

}  // namespace lockstep::cpu
