#include "model/cpu/kernels/norm/line_norm.h"

#include <array>
#include <cmath>

#include "model/cpu/kernels/own_kernel.h"
#include "model/cpu/kernels/vector_math.h"

namespace lockstep::cpu {
namespace {

/// The sum of (x - shift)^2 in float64, over 16 accumulators.
LOCKSTEP_CLONES double squares_about(const float* x, double shift, std::int64_t n) {
  double sums[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::int64_t l = 0; l < lanes; ++l) {
      const double d = static_cast<double>(x[i + l]) - shift;
      sums[l] += d * d;
    }
  for (; i < n; ++i) {
    const double d = static_cast<double>(x[i]) - shift;
    sums[i % lanes] += d * d;
  }
  double total = 0;
  for (const double s : sums) total += s;
  return total;
}

LOCKSTEP_CLONES void apply(const float* x, float mean, float inverse, const float* weight, const float* bias,
                           float* y, std::int64_t n) {
  if (bias != nullptr) {
    LOCKSTEP_INDEPENDENT
    for (std::int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) * inverse * weight[i] + bias[i];
  } else {
    LOCKSTEP_INDEPENDENT
    for (std::int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) * inverse * weight[i];
  }
}

/// Sums of g and of g xhat, g = diff weight: what the input's gradient needs of the line.
struct LineSums {
  double g = 0, g_xhat = 0;
};
LOCKSTEP_CLONES LineSums sums_of(const float* x, float mean, float inverse, const float* weight,
                                 const float* diff, std::int64_t n) {
  double a[lanes] = {}, b[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (std::int64_t l = 0; l < lanes; ++l) {
      const double g = static_cast<double>(diff[i + l]) * static_cast<double>(weight[i + l]);
      a[l] += g;
      b[l] += g * static_cast<double>((x[i + l] - mean) * inverse);
    }
  for (; i < n; ++i) {
    const double g = static_cast<double>(diff[i]) * static_cast<double>(weight[i]);
    a[i % lanes] += g;
    b[i % lanes] += g * static_cast<double>((x[i] - mean) * inverse);
  }
  LineSums sums;
  for (const double s : a) sums.g += s;
  for (const double s : b) sums.g_xhat += s;
  return sums;
}

LOCKSTEP_CLONES void differentiate(const float* x, float mean, float inverse, const float* weight,
                                   const float* diff, double mean_g, double mean_g_xhat, float* dx,
                                   std::int64_t n) {
  LOCKSTEP_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) {
    const double g = static_cast<double>(diff[i]) * static_cast<double>(weight[i]);
    const double xhat = static_cast<double>((x[i] - mean) * inverse);
    dx[i] = static_cast<float>(static_cast<double>(inverse) * (g - mean_g - xhat * mean_g_xhat));
  }
}

LOCKSTEP_CLONES void add_weights(const float* x, float mean, float inverse, const float* diff,
                                 double* dweight, double* dbias, std::int64_t n) {
  LOCKSTEP_INDEPENDENT
  for (std::int64_t i = 0; i < n; ++i) {
    dweight[i] += static_cast<double>(diff[i]) * static_cast<double>((x[i] - mean) * inverse);
    dbias[i] += static_cast<double>(diff[i]);
  }
}

/// A task of the first backward phase sums the gradients of weight and bias over its lines in float64; the
/// second phase adds the tasks' sums in their order. Lines are split by shapes alone.
class LineNorm final : public OwnKernel {
 public:
  LineNorm(const KernelSpec& spec, const LineNormOptions& options)
      : LineNorm(spec, options, spec.graph->shape_of(output_of(spec)).dims().back()) {}

  std::span<const Phase> backward_phases() const override {
    return training() ? std::span<const Phase>(backward_) : std::span<const Phase>{};
  }

  void forward(int, int task, const Binding& at, const TaskContext& ctx) const override {
    const float* x = floats(ctx.arena, at.inputs[0]);
    float* y = floats(ctx.arena, at.output);
    float* saved = at.saved == none ? nullptr : floats(ctx.arena, at.saved);
    const float* weight = ctx.parameters + at.parameters[0];
    const float* bias = options_.bias ? ctx.parameters + at.parameters[1] : nullptr;
    const Range mine = split().part(task);
    for (std::int64_t line = mine.begin; line < mine.end; ++line) {
      const float* in = x + line * axis_;
      const double mean = options_.centred ? sum(in, axis_) / static_cast<double>(axis_) : 0.0;
      const double variance = squares_about(in, mean, axis_) / static_cast<double>(axis_);
      const auto inverse = static_cast<float>(1.0 / std::sqrt(variance + options_.epsilon));
      apply(in, static_cast<float>(mean), inverse, weight, bias, y + line * axis_, axis_);
      if (saved != nullptr) {
        saved[2 * line] = static_cast<float>(mean);
        saved[2 * line + 1] = inverse;
      }
    }
  }

  void backward(int phase, int task, const Binding& at, const TaskContext& ctx) const override {
    auto* sums = reinterpret_cast<double*>(ctx.arena + at.work);
    if (phase == 1) {
      add_tasks(task, at, ctx, sums);
      return;
    }
    const float* x = floats(ctx.arena, at.inputs[0]);
    const float* saved = floats(ctx.arena, at.saved);
    const float* diff = floats(ctx.arena, at.diff_output);
    const float* weight = ctx.parameters + at.parameters[0];
    float* dx = diff_input(at, ctx, 0);
    double* dweight = sums + 2 * axis_ * task;
    double* dbias = dweight + axis_;
    std::fill_n(dweight, 2 * axis_, 0.0);
    const Range mine = split().part(task);
    const auto n = static_cast<double>(axis_);
    for (std::int64_t line = mine.begin; line < mine.end; ++line) {
      const float* in = x + line * axis_;
      const float* g = diff + line * axis_;
      const float mean = saved[2 * line], inverse = saved[2 * line + 1];
      if (dx != nullptr) {
        const LineSums s = sums_of(in, mean, inverse, weight, g, axis_);
        differentiate(in, mean, inverse, weight, g, options_.centred ? s.g / n : 0.0, s.g_xhat / n,
                      dx + line * axis_, axis_);
      }
      add_weights(in, mean, inverse, g, dweight, dbias, axis_);
    }
  }

 private:
  static ValueId output_of(const KernelSpec& spec) {
    return spec.graph->nodes.at(static_cast<std::size_t>(spec.node)).output;
  }
  LineNorm(const KernelSpec& spec, const LineNormOptions& options, std::int64_t axis)
      : OwnKernel(options.name, spec,
                  split_work(spec.rows * spec.output.elements() / axis,
                             spec.rows * spec.output.elements() * static_cast<std::int64_t>(sizeof(float)))),
        options_(options),
        axis_(axis),
        columns_(split_work(axis, axis * 2 * static_cast<std::int64_t>(sizeof(double)))) {
    require(spec.inputs.at(0) == spec.output && spec.output.block == 1, "a line norm takes plain values");
    needs_.parameter_storage.assign(options.bias ? 2 : 1, axis);
    if (training()) {
      const std::int64_t lines = spec.rows * spec.output.elements() / axis;
      needs_.saved = static_cast<std::size_t>(2 * lines) * sizeof(float);
      needs_.work = static_cast<std::size_t>(2 * axis * split().tasks) * sizeof(double);
      needs_.needs_input_in_backward = true;
      backward_ = {Phase{split().tasks}, Phase{columns_.tasks}};
    }
  }

  void add_tasks(int task, const Binding& at, const TaskContext& ctx, const double* sums) const {
    const Range mine = columns_.part(task);
    for (std::int64_t c = mine.begin; c < mine.end; ++c) {
      double weight = 0, bias = 0;
      for (int t = 0; t < split().tasks; ++t) {
        weight += sums[2 * axis_ * t + c];
        bias += sums[2 * axis_ * t + axis_ + c];
      }
      ctx.gradients[at.parameters[0] + c] = static_cast<float>(weight);
      if (options_.bias) ctx.gradients[at.parameters[1] + c] = static_cast<float>(bias);
    }
  }

  LineNormOptions options_;
  std::int64_t axis_;
  TaskSplit columns_;
  std::array<Phase, 2> backward_{};
};

}  // namespace

std::unique_ptr<Kernel> make_line_norm(const KernelSpec& spec, const LineNormOptions& options) {
  return std::make_unique<LineNorm>(spec, options);
}

}  // namespace lockstep::cpu
