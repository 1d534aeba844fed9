#include "model/ops/sequence/sequence_mean.h"

#include <algorithm>

#include "model/cpu/kernels/own_kernel.h"

namespace lockstep::cpu {
namespace {

class SequenceMean final : public OwnKernel {
 public:
  explicit SequenceMean(const KernelSpec& spec) : OwnKernel("sequence_mean", spec, split_rows(spec)) {
    const Shape& in = spec.graph->shape_of(spec.op().inputs[0]);
    positions_ = in[0];
    features_ = in[1];
  }

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const Range rows = split().part(task);
    for (std::int64_t n = rows.begin; n < rows.end; ++n) {
      const float* x = floats(ctx.arena, at.inputs[0]) + n * positions_ * features_;
      float* y = floats(ctx.arena, at.output) + n * features_;
      for (std::int64_t f = 0; f < features_; ++f)
        y[f] = static_cast<float>(tiled_mean(input_length(at, ctx, 0, n, positions_), [&](std::int64_t t) {
          return static_cast<double>(x[t * features_ + f]);
        }));
    }
  }
  void backward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    float* all = diff_input(at, ctx, 0);
    if (all == nullptr) return;
    const Range rows = split().part(task);
    for (std::int64_t n = rows.begin; n < rows.end; ++n) {
      float* dx = all + n * positions_ * features_;
      const float* dy = floats(ctx.arena, at.diff_output) + n * features_;
      const std::int64_t length = input_length(at, ctx, 0, n, positions_);
      for (std::int64_t t = 0; t < length; ++t)
        for (std::int64_t f = 0; f < features_; ++f)
          dx[t * features_ + f] =
              static_cast<float>(static_cast<double>(dy[f]) / static_cast<double>(length));
      std::fill(dx + length * features_, dx + positions_ * features_, 0.0f);
    }
  }

 private:
  std::int64_t positions_ = 1, features_ = 1;
};

}  // namespace

std::unique_ptr<Kernel> make_sequence_mean(const KernelSpec& spec) {
  return std::make_unique<SequenceMean>(spec);
}

}  // namespace lockstep::cpu
