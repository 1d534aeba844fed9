#include "model/cpu/kernels/own_kernel.h"
#include "model/cpu/kernels/vector_math.h"
#include "model/ops/activation/gelu_function.h"

namespace lockstep::cpu {
namespace {

LOCKSTEP_CLONES void gelu_forward(const float* x, float* y, std::int64_t n) {
  LOCKSTEP_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) y[i] = gelu_of(x[i]);
}

LOCKSTEP_CLONES void gelu_backward(const float* x, const float* diff, float* dx, std::int64_t n) {
  LOCKSTEP_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) dx[i] = diff[i] * gelu_slope(x[i]);
}

/// Not fused into the layer in front, as ReLU is: the gradient needs GELU's input, which a fused layer would
/// have to write beside its output, and oneDNN does not promise that its eltwise_gelu_tanh gives the same
/// bits on other instruction sets. Input and output may be the same buffer in inference, the gradients
/// always.
class Gelu final : public OwnKernel {
 public:
  explicit Gelu(const KernelSpec& spec)
      : OwnKernel("gelu", spec, split_rows(spec)), elements_(spec.output.elements()) {
    require(spec.inputs.at(0) == spec.output, "gelu keeps the layout of its input");
    needs_.needs_input_in_backward = training();
  }

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const Range part = elements(task);
    gelu_forward(floats(ctx.arena, at.inputs[0]) + part.begin, floats(ctx.arena, at.output) + part.begin,
                 part.size());
  }

  void backward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    float* dx = diff_input(at, ctx, 0);
    if (dx == nullptr) return;
    const Range part = elements(task);
    gelu_backward(floats(ctx.arena, at.inputs[0]) + part.begin,
                  floats(ctx.arena, at.diff_output) + part.begin, dx + part.begin, part.size());
  }

 private:
  Range elements(int task) const {
    const Range rows = split().part(task);
    return {rows.begin * elements_, rows.end * elements_};
  }
  std::int64_t elements_;
};

}  // namespace

std::unique_ptr<Kernel> make_gelu(const KernelSpec& spec) {
  return std::make_unique<Gelu>(spec);
}

}  // namespace lockstep::cpu
