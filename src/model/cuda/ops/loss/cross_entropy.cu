#include <cmath>

#include "model/cuda/ops/own_work.h"
#include "model/ops/loss/cross_entropy.h"

// Ours because loss, its gradient, the scale for float16 and the count of hits are one pass here.

namespace lockstep::cuda {
namespace {

/// A row of outputs is cut into `loss_parts` parts, so that few rows of many classes fill a GPU too.
inline constexpr std::int64_t loss_parts = 32;
LOCKSTEP_HOST_DEVICE constexpr std::int64_t part_edge(std::int64_t width, std::int64_t part) {
  return width * part / loss_parts;
}

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

}  // namespace

const OwnOp& own_cross_entropy() {
  static const OwnOp op = {
      [](const OpNode&, const lockstep::Graph&, std::int64_t rows) {
        return OwnNeeds{.work = static_cast<std::size_t>(rows * loss_parts) *
                                (sizeof(double) + sizeof(std::int64_t) + sizeof(float))};
      },
      [](const OwnCall& call) {
        const std::int64_t width = call.graph.shape_of(call.node.inputs[0]).elements();
        const auto* x = static_cast<const float*>(call.x[0]);
        auto* sums = static_cast<double*>(call.work);
        auto* places = reinterpret_cast<std::int64_t*>(sums + call.rows * loss_parts);
        auto* largest = reinterpret_cast<float*>(places + call.rows * loss_parts);
        call.launcher.each(call.rows * loss_parts, LargestOfPart{x, largest, places, width});
        call.launcher.each(call.rows * loss_parts, SumExpOfPart{x, largest, places, sums, width});
        call.launcher.each(call.rows, CrossEntropyOfRow{x, call.labels, largest, places, sums, call.row_sums,
                                                        call.header, width});
        if (call.dx[0] != nullptr)
          call.launcher.each(call.rows * width, CrossEntropyGradient{x, call.labels, largest, places, sums,
                                                                     static_cast<float*>(call.dx[0]),
                                                                     call.header, call.loss_scale, width});
      },
      nullptr};
  return op;
}

}  // namespace lockstep::cuda
