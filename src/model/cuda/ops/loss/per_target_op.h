#pragma once

#include "model/cuda/ops/own_work.h"

// Losses that are the mean over outputs of a function of one output and its target.

namespace lockstep::cuda {

/// The loss of a row; 0 for empty rows. Item: row.
template <class Function>
struct PerTargetRow {
  const float* x;
  const float* targets;
  LossSums* row_sums;
  const SliceHeader* header;
  std::int64_t width;
  Function function;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t row) const {
    double sum = 0;
    if (row < header->valid)
      for (std::int64_t k = row * width; k < (row + 1) * width; ++k)
        sum += function.value(static_cast<double>(x[k]), static_cast<double>(targets[k]));
    row_sums[row] = LossSums{sum / static_cast<double>(width), 0.0, row < header->valid ? 1.0 : 0.0, 0.0};
  }
};

/// Item: (row, output).
template <class Function>
struct PerTargetGradient {
  const float* x;
  const float* targets;
  float* dx;
  const SliceHeader* header;
  const float* loss_scale;
  std::int64_t width;
  Function function;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    float out = 0.0f;
    if (i / width < header->valid)
      out = static_cast<float>(function.slope(static_cast<double>(x[i]), static_cast<double>(targets[i])) /
                               static_cast<double>(width)) *
            *loss_scale;
    dx[i] = out;
  }
};

template <class Function>
const OwnOp& per_target_op() {
  static const OwnOp op = {
      [](const OpNode&, const lockstep::Graph&, std::int64_t) { return OwnNeeds{}; },
      [](const OwnCall& call) {
        const std::int64_t width = call.graph.shape_of(call.node.inputs[0]).elements();
        const auto* x = static_cast<const float*>(call.x[0]);
        const Function function(call.node.attrs);
        call.launcher.each(
            call.rows, PerTargetRow<Function>{x, call.targets, call.row_sums, call.header, width, function});
        if (call.dx[0] != nullptr)
          call.launcher.each(call.rows * width,
                             PerTargetGradient<Function>{x, call.targets, static_cast<float*>(call.dx[0]),
                                                         call.header, call.loss_scale, width, function});
      },
      nullptr};
  return op;
}

}  // namespace lockstep::cuda
