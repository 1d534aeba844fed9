#include "model/ops/shape/reshape.h"

#include <algorithm>

#include "model/cpu/kernels/own_kernel.h"

namespace lockstep::cpu {
namespace {

class Reshape final : public OwnKernel {
 public:
  explicit Reshape(const KernelSpec& spec)
      : OwnKernel("reshape", spec, split_rows(spec)), elements_(spec.output.elements()) {
    require(spec.inputs.at(0).block == 1, "reshape takes plain values");
  }
  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    copy(task, floats(ctx.arena, at.inputs[0]), floats(ctx.arena, at.output));
  }
  void backward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    if (float* dx = diff_input(at, ctx, 0)) copy(task, floats(ctx.arena, at.diff_output), dx);
  }

 private:
  void copy(int task, const float* from, float* to) const {
    const Range rows = split().part(task);
    std::copy(from + rows.begin * elements_, from + rows.end * elements_, to + rows.begin * elements_);
  }
  std::int64_t elements_;
};

}  // namespace

std::unique_ptr<Kernel> make_reshape(const KernelSpec& spec) {
  return std::make_unique<Reshape>(spec);
}

}  // namespace lockstep::cpu
