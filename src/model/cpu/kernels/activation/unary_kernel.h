#pragma once

#include <string>

#include "model/cpu/kernels/own_kernel.h"
#include "model/cpu/kernels/vector_math.h"

namespace lockstep::cpu {

/// The loops of an op that maps every element by one function, over n elements. Buffers are the same or
/// apart. `parameter`: what the op's attributes say, for functions that have one.
struct UnaryLoops {
  void (*forward)(const float* x, float* y, std::int64_t n, float parameter);
  /// dx = diff times the slope at x.
  void (*backward)(const float* x, const float* diff, float* dx, std::int64_t n, float parameter);
  float parameter = 0;
};

/// Such an op. Input and output may be the same buffer in inference, the gradients always.
class UnaryKernel final : public OwnKernel {
 public:
  UnaryKernel(const std::string& name, const KernelSpec& spec, const UnaryLoops& loops)
      : OwnKernel(name, spec, split_rows(spec)), loops_(loops), elements_(spec.output.elements()) {
    require(spec.inputs.at(0) == spec.output, "an activation keeps the layout of its input");
    needs_.needs_input_in_backward = training();
  }

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const Range part = elements(task);
    loops_.forward(floats(ctx.arena, at.inputs[0]) + part.begin, floats(ctx.arena, at.output) + part.begin,
                   part.size(), loops_.parameter);
  }

  void backward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    float* dx = diff_input(at, ctx, 0);
    if (dx == nullptr) return;
    const Range part = elements(task);
    loops_.backward(floats(ctx.arena, at.inputs[0]) + part.begin,
                    floats(ctx.arena, at.diff_output) + part.begin, dx + part.begin, part.size(),
                    loops_.parameter);
  }

 private:
  Range elements(int task) const {
    const Range rows = split().part(task);
    return {rows.begin * elements_, rows.end * elements_};
  }
  UnaryLoops loops_;
  std::int64_t elements_;
};

}  // namespace lockstep::cpu
