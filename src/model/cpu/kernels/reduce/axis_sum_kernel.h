#pragma once

#include <string>

#include "model/cpu/kernels/own_kernel.h"
#include "model/ops/reduce/axis_sum.h"

namespace lockstep::cpu {

/// A sum along an axis (model/ops/reduce/axis_sum.h), in float64. Rows are split among tasks.
class AxisSumKernel final : public OwnKernel {
 public:
  AxisSumKernel(const std::string& name, const KernelSpec& spec, const ops::AxisSum& sum)
      : OwnKernel(name, spec, split_rows(spec)), sum_(sum) {
    require(spec.inputs.at(0).block == 1, "a sum takes plain values");
  }

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const float* x = floats(ctx.arena, at.inputs[0]);
    float* y = floats(ctx.arena, at.output);
    for_each_output(task, [&](std::int64_t first, std::int64_t to) {
      double sum = 0;
      for (std::int64_t k = 0; k < sum_.count; ++k) sum += static_cast<double>(x[first + k * sum_.step]);
      y[to] = static_cast<float>(sum * sum_.factor);
    });
  }
  void backward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    float* dx = diff_input(at, ctx, 0);
    if (dx == nullptr) return;
    const float* dy = floats(ctx.arena, at.diff_output);
    for_each_output(task, [&](std::int64_t first, std::int64_t to) {
      const auto share = static_cast<float>(static_cast<double>(dy[to]) * sum_.factor);
      for (std::int64_t k = 0; k < sum_.count; ++k) dx[first + k * sum_.step] = share;
    });
  }

 private:
  template <class Fn>
  void for_each_output(int task, Fn fn) const {
    const Range rows = split().part(task);
    for (std::int64_t row = rows.begin; row < rows.end; ++row)
      for (std::int64_t i = 0; i < sum_.outputs(); ++i) {
        std::int64_t first = 0, to = 0;
        sum_.places(i, first, to);
        fn(row * sum_.in_row + first, row * sum_.out_row + to);
      }
  }
  ops::AxisSum sum_;
};

}  // namespace lockstep::cpu
