#pragma once

#include "model/cuda/ops/own_work.h"
#include "model/ops/reduce/axis_sum.h"

namespace lockstep::cuda {

/// Item: (row, output).
template <class T>
struct SumAlongAxis {
  const T* x;
  T* y;
  ops::AxisSum sum;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t row = i / sum.outputs();
    std::int64_t first = 0, to = 0;
    sum.places(i - row * sum.outputs(), first, to);
    double total = 0;
    for (std::int64_t k = 0; k < sum.count; ++k)
      total += static_cast<double>(load(x[row * sum.in_row + first + k * sum.step]));
    store(y[row * sum.out_row + to], static_cast<float>(total * sum.factor));
  }
};

/// Item: (row, output).
template <class T>
struct SpreadAlongAxis {
  const T* dy;
  T* dx;
  ops::AxisSum sum;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t row = i / sum.outputs();
    std::int64_t first = 0, to = 0;
    sum.places(i - row * sum.outputs(), first, to);
    const double g = static_cast<double>(load(dy[row * sum.out_row + to]));
    for (std::int64_t k = 0; k < sum.count; ++k)
      store(dx[row * sum.in_row + first + k * sum.step], static_cast<float>(g * sum.factor));
  }
};

template <class Attrs>
const OwnOp& axis_sum_op() {
  static const OwnOp op = {
      [](const OpNode&, const lockstep::Graph&, std::int64_t) { return OwnNeeds{}; },
      [](const OwnCall& call) {
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          const ops::AxisSum sum = ops::axis_sum_of<Attrs>(call.node, call.graph, true);
          call.launcher.each(call.rows * sum.outputs(),
                             SumAlongAxis<T>{static_cast<const T*>(call.x[0]), static_cast<T*>(call.y), sum});
        });
      },
      [](const OwnCall& call) {
        if (call.dx[0] == nullptr) return;
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          const ops::AxisSum sum = ops::axis_sum_of<Attrs>(call.node, call.graph, true);
          call.launcher.each(call.rows * sum.outputs(), SpreadAlongAxis<T>{static_cast<const T*>(call.dy),
                                                                           static_cast<T*>(call.dx[0]), sum});
        });
      }};
  return op;
}

}  // namespace lockstep::cuda
