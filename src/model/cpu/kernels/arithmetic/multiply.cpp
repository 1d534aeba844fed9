#include "model/cpu/kernels/own_kernel.h"
#include "model/cpu/kernels/vector_math.h"

namespace lockstep::cpu {
namespace {

LOCKSTEP_CLONES void product(const float* a, const float* b, float* y, std::int64_t n) {
  LOCKSTEP_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) y[i] = a[i] * b[i];
}

class Multiply final : public OwnKernel {
 public:
  explicit Multiply(const KernelSpec& spec)
      : OwnKernel("multiply", spec, split_rows(spec)), elements_(spec.output.elements()) {
    require(spec.inputs.at(0) == spec.output && spec.inputs.at(1) == spec.output,
            "multiply keeps the layout of its inputs");
    needs_.needs_input_in_backward = training();
  }

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const Range part = elements(task);
    product(floats(ctx.arena, at.inputs[0]) + part.begin, floats(ctx.arena, at.inputs[1]) + part.begin,
            floats(ctx.arena, at.output) + part.begin, part.size());
  }
  void backward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const Range part = elements(task);
    for (std::size_t k = 0; k < 2; ++k) {
      float* dx = diff_input(at, ctx, k);
      if (dx == nullptr) continue;
      product(floats(ctx.arena, at.diff_output) + part.begin,
              floats(ctx.arena, at.inputs[1 - k]) + part.begin, dx + part.begin, part.size());
    }
  }

 private:
  Range elements(int task) const {
    const Range rows = split().part(task);
    return {rows.begin * elements_, rows.end * elements_};
  }
  std::int64_t elements_;
};

}  // namespace

std::unique_ptr<Kernel> make_multiply(const KernelSpec& spec) {
  return std::make_unique<Multiply>(spec);
}

}  // namespace lockstep::cpu
