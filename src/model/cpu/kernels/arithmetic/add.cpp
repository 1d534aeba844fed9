#include <cstring>

#include "model/cpu/kernels/own_kernel.h"
#include "model/cpu/kernels/vector_math.h"

namespace lockstep::cpu {
namespace {

LOCKSTEP_CLONES void add_forward(const float* a, const float* b, float* y, std::int64_t n) {
  LOCKSTEP_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) y[i] = a[i] + b[i];
}

LOCKSTEP_CLONES void add_relu_forward(const float* a, const float* b, float* y, std::int64_t n) {
  LOCKSTEP_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) {
    const float z = a[i] + b[i];
    y[i] = z < 0.0f ? 0.0f : z;
  }
}

LOCKSTEP_CLONES void mask_backward(const float* y, const float* diff, float* dx, std::int64_t n) {
  LOCKSTEP_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) dx[i] = y[i] > 0.0f ? diff[i] : 0.0f;
}

/// The output may be the same buffer as an input.
class Add final : public OwnKernel {
 public:
  explicit Add(const KernelSpec& spec)
      : OwnKernel(spec.relu ? "add+relu" : "add", spec, split_rows(spec)),
        elements_(spec.output.elements()),
        relu_(spec.relu) {
    require(spec.inputs.size() == 2 && spec.inputs[0] == spec.output && spec.inputs[1] == spec.output,
            "add takes two inputs of its output's layout");
    needs_.needs_output_in_backward = relu_;
  }

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const Range part = elements(task);
    const float* a = floats(ctx.arena, at.inputs[0]) + part.begin;
    const float* b = floats(ctx.arena, at.inputs[1]) + part.begin;
    float* y = floats(ctx.arena, at.output) + part.begin;
    (relu_ ? add_relu_forward : add_forward)(a, b, y, part.size());
  }

  void backward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const Range part = elements(task);
    const float* diff = floats(ctx.arena, at.diff_output) + part.begin;
    for (std::size_t i = 0; i < 2; ++i) {
      float* dx = diff_input(at, ctx, i);
      if (dx == nullptr) continue;
      if (relu_) {
        mask_backward(floats(ctx.arena, at.output) + part.begin, diff, dx + part.begin, part.size());
      } else if (dx + part.begin != diff) {
        std::memcpy(dx + part.begin, diff, static_cast<std::size_t>(part.size()) * sizeof(float));
      }
    }
  }

 private:
  Range elements(int task) const {
    const Range rows = split().part(task);
    return {rows.begin * elements_, rows.end * elements_};
  }
  std::int64_t elements_;
  bool relu_;
};

}  // namespace

std::unique_ptr<Kernel> make_add(const KernelSpec& spec) {
  return std::make_unique<Add>(spec);
}

}  // namespace lockstep::cpu
