#pragma once

#include <cmath>
#include <cstdint>

#include "model/cuda/kernels/work_reduce.h"

// Softmax and the losses. Ours because cuDNN's softmax reduces over channels or whole samples only, and
// because loss, its gradient, the scale for float16 and the count of hits are one pass here.

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

/// A row of outputs is cut into `loss_parts` parts, so that few rows of many classes fill a GPU too.
inline constexpr std::int64_t loss_parts = 32;
LOCKSTEP_HOST_DEVICE constexpr std::int64_t part_edge(std::int64_t width, std::int64_t part) {
  return width * part / loss_parts;
}

struct LossSums {
  double loss = 0;
  double correct = 0;
};

/// The largest logit of a part and its first place. Item: (row, part).
struct LargestOfPart {
  const float* x;  ///< (rows, width)
  float* largest;  ///< (rows, parts); of an empty part: -infinity
  std::int64_t* place;
  std::int64_t width;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t row = i / loss_parts, part = i % loss_parts;
    float best = -INFINITY;
    std::int64_t at = -1;
    for (std::int64_t k = part_edge(width, part); k < part_edge(width, part + 1); ++k) {
      const float v = x[row * width + k];
      if (at < 0 || v > best || (v != v && best == best)) {
        best = v;
        at = k;
      }
    }
    largest[i] = best;
    place[i] = at;
  }
};

/// The largest of a row from those of its parts.
LOCKSTEP_HOST_DEVICE inline float largest_of_row(const float* largest, const std::int64_t* place,
                                                 std::int64_t row, std::int64_t* where) {
  float best = -INFINITY;
  std::int64_t at = -1;
  for (std::int64_t p = 0; p < loss_parts; ++p) {
    const std::int64_t i = row * loss_parts + p;
    if (place[i] < 0) continue;
    const float v = largest[i];
    if (at < 0 || v > best || (v != v && best == best)) {
      best = v;
      at = place[i];
    }
  }
  *where = at;
  return best;
}

/// The sum of e^(x - largest) of a part. Item: (row, part).
struct SumExpOfPart {
  const float* x;
  const float* largest;
  const std::int64_t* place;
  double* sum;  ///< (rows, parts)
  std::int64_t width;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t row = i / loss_parts, part = i % loss_parts;
    std::int64_t where = -1;
    const float shift = largest_of_row(largest, place, row, &where);
    double total = 0;
    for (std::int64_t k = part_edge(width, part); k < part_edge(width, part + 1); ++k)
      total += static_cast<double>(expf(x[row * width + k] - shift));
    sum[i] = total;
  }
};

/// -log softmax(x)[label] of a row, and whether the label is the first largest; 0 for empty rows. Item: row.
struct CrossEntropyOfRow {
  const float* x;
  const std::int32_t* labels;
  const float* largest;
  const std::int64_t* place;
  double* sum;  ///< (rows, parts): the first becomes the row's total
  LossSums* row_sums;
  const SliceHeader* header;
  std::int64_t width;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t row) const {
    LossSums out;
    if (row < header->valid) {
      double total = 0;
      for (std::int64_t p = 0; p < loss_parts; ++p) total += sum[row * loss_parts + p];
      std::int64_t where = -1;
      const float shift = largest_of_row(largest, place, row, &where);
      const float of_label = x[row * width + labels[row]];
      out.loss = log(total) + (static_cast<double>(shift) - static_cast<double>(of_label));
      out.correct = where == labels[row] && shift == shift ? 1.0 : 0.0;
      sum[row * loss_parts] = total;
    }
    row_sums[row] = out;
  }
};

/// scale (softmax(x) - [label]); 0 for empty rows. Item: (row, class).
struct CrossEntropyGradient {
  const float* x;
  const std::int32_t* labels;
  const float* largest;
  const std::int64_t* place;
  const double* sum;  ///< the first of each row: its total
  float* dx;
  const SliceHeader* header;
  const float* loss_scale;
  std::int64_t width;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t row = i / width, k = i % width;
    float out = 0.0f;
    if (row < header->valid) {
      std::int64_t where = -1;
      const float shift = largest_of_row(largest, place, row, &where);
      const double share = static_cast<double>(expf(x[i] - shift)) / sum[row * loss_parts];
      out = static_cast<float>(share - (k == labels[row] ? 1.0 : 0.0)) * *loss_scale;
    }
    dx[i] = out;
  }
};

/// The mean over outputs of squared differences of a row; 0 for empty rows. Item: row.
struct SquaredErrorOfRow {
  const float* x;
  const float* targets;
  LossSums* row_sums;
  const SliceHeader* header;
  std::int64_t width;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t row) const {
    double squares = 0;
    if (row < header->valid)
      for (std::int64_t k = 0; k < width; ++k) {
        const double d =
            static_cast<double>(x[row * width + k]) - static_cast<double>(targets[row * width + k]);
        squares += d * d;
      }
    row_sums[row] = LossSums{squares / static_cast<double>(width), 0.0};
  }
};

/// Item: (row, output).
struct SquaredErrorGradient {
  const float* x;
  const float* targets;
  float* dx;
  const SliceHeader* header;
  const float* loss_scale;
  std::int64_t width;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const double d = static_cast<double>(x[i]) - static_cast<double>(targets[i]);
    dx[i] = i / width < header->valid ? static_cast<float>(2.0 * d / static_cast<double>(width)) * *loss_scale
                                      : 0.0f;
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
