#include "model/ops/activation/softmax.h"

#include "model/cpu/kernels/own_kernel.h"
#include "model/cpu/kernels/vector_math.h"

namespace lockstep::cpu {
namespace {

LOCKSTEP_CLONES void scale(float* y, double factor, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = static_cast<float>(static_cast<double>(y[i]) * factor);
}

LOCKSTEP_CLONES void differentiate(const float* y, const float* diff, double mean, float* dx,
                                   std::int64_t n) {
  LOCKSTEP_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) {
    dx[i] = static_cast<float>(static_cast<double>(y[i]) * (static_cast<double>(diff[i]) - mean));
  }
}

/// Softmax over the last axis of the plain shape: of features all, of an image each line. Lines of a blocked
/// layout are brought together in scratch memory.
class Softmax final : public OwnKernel {
 public:
  explicit Softmax(const KernelSpec& spec) : OwnKernel("softmax", spec, split_rows(spec)) {
    attrs_of<SoftmaxAttrs>(spec);
    const ValueLayout& layout = spec.output;
    require(spec.inputs.at(0) == layout, "softmax keeps the layout of its input");
    const OpNode& node = spec.graph->nodes[static_cast<std::size_t>(spec.node)];
    axis_ = spec.graph->shape_of(node.output).dims().back();
    step_ = layout.plain() ? 1 : layout.block;
    elements_ = layout.elements();
    require(elements_ % (axis_ * step_) == 0, "softmax works on whole lines");
    if (step_ > 1) needs_.scratch = static_cast<std::size_t>(2 * axis_) * sizeof(float);
    needs_.needs_output_in_backward = training();
  }

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const float* x = floats(ctx.arena, at.inputs[0]);
    float* y = floats(ctx.arena, at.output);
    float* line = floats(ctx.scratch, 0);
    for_each_line(task, [&](std::int64_t offset) {
      const float* in = x + offset;
      float* out = y + offset;
      if (step_ > 1) {
        gather(in, line);
        in = out = line;
      }
      exp_shifted(in, largest(in, axis_), out, axis_);
      scale(out, 1.0 / sum(out, axis_), axis_);
      if (step_ > 1) scatter(line, y + offset);
    });
  }

  /// dx = y (g - sum of g y).
  void backward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    float* dx = diff_input(at, ctx, 0);
    if (dx == nullptr) return;
    const float* y = floats(ctx.arena, at.output);
    const float* diff = floats(ctx.arena, at.diff_output);
    float* line = floats(ctx.scratch, 0);
    for_each_line(task, [&](std::int64_t offset) {
      const float* of_y = y + offset;
      const float* of_diff = diff + offset;
      float* out = dx + offset;
      if (step_ > 1) {
        gather(of_y, line);
        gather(of_diff, line + axis_);
        of_y = line;
        of_diff = out = line + axis_;
      }
      differentiate(of_y, of_diff, dot(of_y, of_diff, axis_), out, axis_);
      if (step_ > 1) scatter(out, dx + offset);
    });
  }

 private:
  /// Calls fn(offset of the first element) for the lines of a task; elements of a line are step_ apart.
  template <class Fn>
  void for_each_line(int task, Fn fn) const {
    const Range rows = split().part(task);
    for (std::int64_t group = rows.begin * elements_; group < rows.end * elements_; group += axis_ * step_) {
      for (std::int64_t i = 0; i < step_; ++i) fn(group + i);
    }
  }
  void gather(const float* from, float* line) const {
    for (std::int64_t i = 0; i < axis_; ++i) line[i] = from[i * step_];
  }
  void scatter(const float* line, float* to) const {
    for (std::int64_t i = 0; i < axis_; ++i) to[i * step_] = line[i];
  }

  std::int64_t axis_ = 1, step_ = 1, elements_ = 1;
};

}  // namespace

std::unique_ptr<Kernel> make_softmax(const KernelSpec& spec) {
  return std::make_unique<Softmax>(spec);
}

}  // namespace lockstep::cpu
