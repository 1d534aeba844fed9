#include "model/ops/sequence/unfold.h"

#include <algorithm>

#include "model/cpu/kernels/own_kernel.h"

namespace lockstep::cpu {
namespace {

class Unfold final : public OwnKernel {
 public:
  explicit Unfold(const KernelSpec& spec)
      : OwnKernel("unfold", spec, split_rows(spec)), attrs_(attrs_of<UnfoldAttrs>(spec)) {
    const Shape& in = spec.graph->shape_of(spec.op().inputs[0]);
    positions_ = in[0];
    features_ = in[1];
  }

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const Range rows = split().part(task);
    const float* x = floats(ctx.arena, at.inputs[0]);
    float* y = floats(ctx.arena, at.output);
    for (std::int64_t n = rows.begin * positions_; n < rows.end * positions_; ++n)
      for (std::int64_t j = 0; j < attrs_.width; ++j) {
        float* to = y + (n * attrs_.width + j) * features_;
        const std::int64_t from = n % positions_ + j - attrs_.before;
        if (from < 0 || from >= positions_)
          std::fill_n(to, features_, 0.0f);
        else
          std::copy_n(x + (n + j - attrs_.before) * features_, features_, to);
      }
  }
  void backward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    float* dx = diff_input(at, ctx, 0);
    if (dx == nullptr) return;
    const Range rows = split().part(task);
    const float* dy = floats(ctx.arena, at.diff_output);
    for (std::int64_t n = rows.begin * positions_; n < rows.end * positions_; ++n) {
      float* to = dx + n * features_;
      std::fill_n(to, features_, 0.0f);
      for (std::int64_t j = 0; j < attrs_.width; ++j) {
        const std::int64_t by = n % positions_ - j + attrs_.before;  // the window that has it at place j
        if (by < 0 || by >= positions_) continue;
        const float* from = dy + ((n - j + attrs_.before) * attrs_.width + j) * features_;
        for (std::int64_t f = 0; f < features_; ++f) to[f] += from[f];
      }
    }
  }

 private:
  UnfoldAttrs attrs_;
  std::int64_t positions_ = 1, features_ = 1;
};

}  // namespace

std::unique_ptr<Kernel> make_unfold(const KernelSpec& spec) {
  return std::make_unique<Unfold>(spec);
}

}  // namespace lockstep::cpu
