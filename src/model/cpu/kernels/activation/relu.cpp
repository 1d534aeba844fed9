#include "model/cpu/kernels/own_kernel.h"
#include "model/cpu/kernels/vector_math.h"

namespace lockstep::cpu {
namespace {

LOCKSTEP_CLONES void relu_forward(const float* x, float* y, std::int64_t n) {
  // Written so that NaN stays NaN.
  LOCKSTEP_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] < 0.0f ? 0.0f : x[i];
}

LOCKSTEP_CLONES void relu_backward(const float* y, const float* diff, float* dx, std::int64_t n) {
  LOCKSTEP_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) dx[i] = y[i] > 0.0f ? diff[i] : 0.0f;
}

/// Input and output, and their gradients, may be the same buffers.
class Relu final : public OwnKernel {
 public:
  explicit Relu(const KernelSpec& spec)
      : OwnKernel("relu", spec, split_rows(spec)), elements_(spec.output.elements()) {
    require(spec.inputs.at(0) == spec.output, "relu keeps the layout of its input");
    needs_.needs_output_in_backward = true;
  }

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const Range part = elements(task);
    relu_forward(floats(ctx.arena, at.inputs[0]) + part.begin, floats(ctx.arena, at.output) + part.begin,
                 part.size());
  }

  void backward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    float* dx = diff_input(at, ctx, 0);
    if (dx == nullptr) return;
    const Range part = elements(task);
    relu_backward(floats(ctx.arena, at.output) + part.begin, floats(ctx.arena, at.diff_output) + part.begin,
                  dx + part.begin, part.size());
  }

 private:
  Range elements(int task) const {
    const Range rows = split().part(task);
    return {rows.begin * elements_, rows.end * elements_};
  }
  std::int64_t elements_;
};

}  // namespace

std::unique_ptr<Kernel> make_relu(const KernelSpec& spec) {
  return std::make_unique<Relu>(spec);
}

}  // namespace lockstep::cpu
