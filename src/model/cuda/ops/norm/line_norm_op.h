#pragma once

#include <cmath>

#include "model/cuda/kernels/work_reduce.h"
#include "model/cuda/ops/own_work.h"

// Layer norm and RMS norm on a GPU: normalisation of every line along the last axis, then weight (and bias)
// by place, as model/cpu/kernels/norm/line_norm.h has it. A line is a thread's; correct first.

namespace lockstep::cuda {

struct LineNormOptions {
  double epsilon;
  bool centred;  ///< false: the mean is taken to be 0
};

/// Item: line. saved: mean and 1 / deviation of each.
template <class T>
struct LineStatistics {
  const T* x;
  float* saved;
  VectorShape s;
  LineNormOptions options;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t line) const {
    const std::int64_t at = s.begin(line);
    double mean = 0, squares = 0;
    if (options.centred) {
      for (std::int64_t k = 0; k < s.length; ++k) mean += static_cast<double>(load(x[at + k * s.stride]));
      mean /= static_cast<double>(s.length);
    }
    for (std::int64_t k = 0; k < s.length; ++k) {
      const double d = static_cast<double>(load(x[at + k * s.stride])) - mean;
      squares += d * d;
    }
    saved[2 * line] = static_cast<float>(mean);
    saved[2 * line + 1] =
        static_cast<float>(1.0 / sqrt(squares / static_cast<double>(s.length) + options.epsilon));
  }
};

/// Item: (line, place), places fastest.
template <class T>
struct LineApply {
  const T* x;
  T* y;
  const float* saved;
  const float* weight;
  const float* bias;  ///< null: none
  VectorShape s;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t line = i / s.length, k = i - line * s.length, at = s.begin(line) + k * s.stride;
    const float z = (load(x[at]) - saved[2 * line]) * saved[2 * line + 1] * weight[k];
    store(y[at], bias != nullptr ? z + bias[k] : z);
  }
};

/// Item: line.
template <class T>
struct LineGradient {
  const T* x;
  const T* dy;
  T* dx;
  const float* saved;
  const float* weight;
  VectorShape s;
  LineNormOptions options;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t line) const {
    const std::int64_t at = s.begin(line);
    const float mean = saved[2 * line], inverse = saved[2 * line + 1];
    double sum = 0, product = 0;
    for (std::int64_t k = 0; k < s.length; ++k) {
      const double g = static_cast<double>(load(dy[at + k * s.stride])) * static_cast<double>(weight[k]);
      sum += g;
      product += g * static_cast<double>((load(x[at + k * s.stride]) - mean) * inverse);
    }
    const auto n = static_cast<double>(s.length);
    const double mean_g = options.centred ? sum / n : 0.0, mean_product = product / n;
    for (std::int64_t k = 0; k < s.length; ++k) {
      const double g = static_cast<double>(load(dy[at + k * s.stride])) * static_cast<double>(weight[k]);
      const double xhat = static_cast<double>((load(x[at + k * s.stride]) - mean) * inverse);
      store(dx[at + k * s.stride],
            static_cast<float>(static_cast<double>(inverse) * (g - mean_g - xhat * mean_product)));
    }
  }
};

/// The gradients of weight and bias over a chunk of lines. Item: (chunk, place), places fastest.
template <class T>
struct LineWeightChunk {
  const T* x;
  const T* dy;
  const float* saved;
  float* dweight;  ///< (chunks, places)
  float* dbias;
  VectorShape s;
  std::int64_t lines;
  ChunkPlan plan;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t chunk = i / s.length, k = i - chunk * s.length;
    const std::int64_t last = smaller((chunk + 1) * plan.rows_per_chunk, lines);
    float weight = 0, bias = 0;
    for (std::int64_t line = chunk * plan.rows_per_chunk; line < last; ++line) {
      const std::int64_t at = s.begin(line) + k * s.stride;
      const float g = load(dy[at]);
      weight += g * ((load(x[at]) - saved[2 * line]) * saved[2 * line + 1]);
      bias += g;
    }
    dweight[i] = weight;
    dbias[i] = bias;
  }
};

/// `Options` has `static LineNormOptions of(const OpAttrs&)`.
template <class Options>
const OwnOp& line_norm_op() {
  static const OwnOp op = {
      [](const OpNode& node, const lockstep::Graph& graph, std::int64_t rows) {
        const Lines lines = lines_of(graph.shape_of(node.output), rows);
        const ChunkPlan plan = chunk_plan(lines.count);
        const auto places = static_cast<std::size_t>(lines.shape.length);
        return OwnNeeds{.input = true,
                        .saved = static_cast<std::size_t>(2 * lines.count) * sizeof(float),
                        .work = 2 * places *
                                (static_cast<std::size_t>(plan.groups) * sizeof(double) +
                                 static_cast<std::size_t>(plan.chunks) * sizeof(float))};
      },
      [](const OwnCall& call) {
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          const Lines lines = lines_of(call.graph.shape_of(call.node.output), call.rows);
          const auto* x = static_cast<const T*>(call.x[0]);
          auto* saved = static_cast<float*>(call.saved);
          call.launcher.each(lines.count,
                             LineStatistics<T>{x, saved, lines.shape, Options::of(call.node.attrs)});
          call.launcher.each(lines.count * lines.shape.length,
                             LineApply<T>{x, static_cast<T*>(call.y), saved, call.parameters[0],
                                          call.parameters[1], lines.shape});
        });
      },
      [](const OwnCall& call) {
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          const Lines lines = lines_of(call.graph.shape_of(call.node.output), call.rows);
          const auto* x = static_cast<const T*>(call.x[0]);
          const auto* dy = static_cast<const T*>(call.dy);
          const auto* saved = static_cast<const float*>(call.saved);
          const std::int64_t places = lines.shape.length;
          if (call.dx[0] != nullptr)
            call.launcher.each(lines.count,
                               LineGradient<T>{x, dy, static_cast<T*>(call.dx[0]), saved, call.parameters[0],
                                               lines.shape, Options::of(call.node.attrs)});
          const ChunkPlan plan = chunk_plan(lines.count);
          auto* group = static_cast<double*>(call.work);
          auto* chunk = reinterpret_cast<float*>(group + 2 * plan.groups * places);
          float* weights = chunk;
          float* biases = chunk + plan.chunks * places;
          const bool bias = call.gradients[1] != nullptr;
          call.launcher.each(plan.chunks * places, LineWeightChunk<T>{x, dy, saved, weights, biases,
                                                                      lines.shape, lines.count, plan});
          call.launcher.each(
              (bias ? 2 : 1) * plan.groups * places,
              SumGroup{{weights, biases}, {group, group + plan.groups * places}, places, plan});
          call.launcher.each((bias ? 2 : 1) * places, SumFinish{{group, group + plan.groups * places},
                                                                {call.gradients[0], call.gradients[1]},
                                                                places,
                                                                plan});
        });
      }};
  return op;
}

}  // namespace lockstep::cuda
