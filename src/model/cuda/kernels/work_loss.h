#pragma once

#include <cmath>
#include <cstdint>

#include "model/cuda/kernels/work_reduce.h"
#include "model/graph/loss_sums.h"

// Softmax, and what all losses share. Ours because cuDNN's softmax reduces over channels or whole samples
// only. The losses themselves are in model/cuda/ops/loss/.

namespace lockstep::cuda {

/// Vectors of `length` numbers, `stride` apart; vector v begins at (v / inner) * outer + v % inner.
struct VectorShape {
  std::int64_t length, stride, inner, outer;
  LOCKSTEP_HOST_DEVICE std::int64_t begin(std::int64_t v) const { return v / inner * outer + v % inner; }
};

/// Item: vector.
template <class T>
struct Softmax {
  const T* x;
  T* y;
  VectorShape s;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t v) const {
    const std::int64_t at = s.begin(v);
    float largest = load(x[at]);
    for (std::int64_t k = 1; k < s.length; ++k) {
      const float z = load(x[at + k * s.stride]);
      if (z > largest || z != z) largest = z;
    }
    double sum = 0;
    for (std::int64_t k = 0; k < s.length; ++k)
      sum += static_cast<double>(expf(load(x[at + k * s.stride]) - largest));
    for (std::int64_t k = 0; k < s.length; ++k)
      store(y[at + k * s.stride],
            static_cast<float>(static_cast<double>(expf(load(x[at + k * s.stride]) - largest)) / sum));
  }
};

/// dx = y (dy - sum(dy y)). Item: vector.
template <class T>
struct SoftmaxBackward {
  const T* y;
  const T* dy;
  T* dx;
  VectorShape s;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t v) const {
    const std::int64_t at = s.begin(v);
    double dot = 0;
    for (std::int64_t k = 0; k < s.length; ++k)
      dot +=
          static_cast<double>(load(y[at + k * s.stride])) * static_cast<double>(load(dy[at + k * s.stride]));
    for (std::int64_t k = 0; k < s.length; ++k) {
      const std::int64_t i = at + k * s.stride;
      store(dx[i],
            static_cast<float>(static_cast<double>(load(y[i])) * (static_cast<double>(load(dy[i])) - dot)));
    }
  }
};

/// The sums over the rows of a slice, in order. One item.
struct SumOfRows {
  const LossSums* row_sums;
  LossSums* total;
  std::int64_t rows;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t) const {
    LossSums sum;
    for (std::int64_t r = 0; r < rows; ++r) {
      sum.loss += row_sums[r].loss;
      sum.correct += row_sums[r].correct;
      sum.weight += row_sums[r].weight;
      sum.counted += row_sums[r].counted;
    }
    *total = sum;
  }
};

/// Remembers a loss that is not finite: the watch, 0 before the first slice of a step, is NaN from then on.
/// One item.
struct WatchLoss {
  const LossSums* result;
  float* watch;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t) const {
    if (result->loss - result->loss != 0) *watch = NAN;  // infinite and NaN give NaN
  }
};

/// Puts what the watch has found into the gradient, so that every rank hears of it with the sums. One item.
struct SpreadNonfinite {
  const float* watch;
  float* gradient;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t) const {
    if (*watch != 0.0f) *gradient = *watch;
  }
};

}  // namespace lockstep::cuda
