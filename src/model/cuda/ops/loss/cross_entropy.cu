#include <cmath>

#include "core/error.h"
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

/// Label smoothing and class weights, as a kernel takes them.
struct ClassWeights {
  static constexpr std::int64_t most = 256;
  float of[most];
  double smoothing = 0, all = 0;  ///< all: the sum of the weights
  bool plain = true;              ///< no smoothing, and every weight is 1
  ClassWeights(const CrossEntropyAttrs& a, std::int64_t classes)
      : smoothing(a.smoothing), plain(a.is_plain()) {
    if (!plain)
      require(classes <= most, "on a GPU label smoothing and class weights are for at most 256 classes");
    for (std::int64_t c = 0; c < most; ++c) of[c] = 1.0f;
    for (std::size_t c = 0; c < a.class_weights.size(); ++c) of[c] = a.class_weights[c];
    for (std::int64_t c = 0; c < classes && c < most; ++c) all += static_cast<double>(of[c]);
  }
  LOCKSTEP_HOST_DEVICE double weight(std::int64_t c) const {
    return plain ? 1.0 : static_cast<double>(of[c]);
  }
  LOCKSTEP_HOST_DEVICE double own(std::int64_t label) const {
    return plain ? 1.0 : (1 - smoothing) * weight(label);
  }
  LOCKSTEP_HOST_DEVICE double share(std::int64_t classes) const {
    return plain ? 0.0 : smoothing / static_cast<double>(classes);
  }
};

/// The sums over the vectors of a row; 0 for empty rows. Item: row.
struct CrossEntropyOfRow {
  const float* x;
  const std::int32_t* labels;
  const float* largest;
  const std::int64_t* place;
  double* sum;  ///< (vectors, parts): the first becomes the vector's total
  LossSums* row_sums;
  const SliceHeader* header;
  std::int64_t width, vectors;  ///< classes; vectors of a row
  ClassWeights weights;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t row) const {
    LossSums out;
    for (std::int64_t v = row * vectors; row < header->valid && v < (row + 1) * vectors; ++v) {
      const std::int32_t label = labels[v];
      if (label == CrossEntropyAttrs::ignored) continue;
      double total = 0;
      for (std::int64_t p = 0; p < loss_parts; ++p) total += sum[v * loss_parts + p];
      std::int64_t where = -1;
      const float shift = largest_of_row(largest, place, v, &where);
      const float* logits = x + v * width;
      out.loss += weights.own(label) *
                  (log(total) + (static_cast<double>(shift) - static_cast<double>(logits[label])));
      if (!weights.plain)
        for (std::int64_t c = 0; c < width; ++c)
          out.loss += weights.share(width) * weights.weight(c) *
                      (log(total) + (static_cast<double>(shift) - static_cast<double>(logits[c])));
      out.correct += where == label && shift == shift ? 1.0 : 0.0;
      out.weight += weights.weight(label);
      out.counted += 1.0;
      sum[v * loss_parts] = total;
    }
    row_sums[row] = out;
  }
};

/// scale times the gradient; 0 for empty rows and ignored labels. Item: (vector, class).
struct CrossEntropyGradient {
  const float* x;
  const std::int32_t* labels;
  const float* largest;
  const std::int64_t* place;
  const double* sum;  ///< the first of each vector: its total
  float* dx;
  const SliceHeader* header;
  const float* loss_scale;
  std::int64_t width, vectors;
  ClassWeights weights;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t v = i / width, k = i % width;
    float out = 0.0f;
    if (v / vectors < header->valid && labels[v] != CrossEntropyAttrs::ignored) {
      std::int64_t where = -1;
      const float shift = largest_of_row(largest, place, v, &where);
      const double share = static_cast<double>(expf(x[i] - shift)) / sum[v * loss_parts];
      const double own = weights.own(labels[v]), smooth = weights.share(width);
      const double factor = weights.plain ? 1.0 : own + smooth * weights.all;
      out = static_cast<float>(factor * share - smooth * weights.weight(k) - (k == labels[v] ? own : 0.0)) *
            *loss_scale;
    }
    dx[i] = out;
  }
};

}  // namespace

const OwnOp& own_cross_entropy() {
  static const OwnOp op = {
      [](const OpNode& node, const lockstep::Graph& graph, std::int64_t rows) {
        const Shape& in = graph.shape_of(node.inputs[0]);
        return OwnNeeds{.work =
                            static_cast<std::size_t>(rows * in.elements() / in.dims().back() * loss_parts) *
                            (sizeof(double) + sizeof(std::int64_t) + sizeof(float))};
      },
      [](const OwnCall& call) {
        const Shape& in = call.graph.shape_of(call.node.inputs[0]);
        const std::int64_t width = in.dims().back(), vectors = in.elements() / width;
        const std::int64_t all = call.rows * vectors;
        const auto* x = static_cast<const float*>(call.x[0]);
        auto* sums = static_cast<double*>(call.work);
        auto* places = reinterpret_cast<std::int64_t*>(sums + all * loss_parts);
        auto* largest = reinterpret_cast<float*>(places + all * loss_parts);
        const ClassWeights weights(call.node.attrs.as<CrossEntropyAttrs>(), width);
        call.launcher.each(all * loss_parts, LargestOfPart{x, largest, places, width});
        call.launcher.each(all * loss_parts, SumExpOfPart{x, largest, places, sums, width});
        call.launcher.each(call.rows, CrossEntropyOfRow{x, call.labels, largest, places, sums, call.row_sums,
                                                        call.header, width, vectors, weights});
        if (call.dx[0] != nullptr)
          call.launcher.each(all * width, CrossEntropyGradient{x, call.labels, largest, places, sums,
                                                               static_cast<float*>(call.dx[0]), call.header,
                                                               call.loss_scale, width, vectors, weights});
      },
      nullptr};
  return op;
}

}  // namespace lockstep::cuda
