#include "model/cuda/ops/own_work.h"
#include "model/ops/loss/hinge.h"

namespace lockstep::cuda {
namespace {

/// A row: its loss, whether it is right, and its gradient. Item: row.
struct HingeRow {
  const float* x;
  const std::int32_t* labels;
  LossSums* row_sums;
  float* dx;  ///< may be null
  const SliceHeader* header;
  const float* loss_scale;
  std::int64_t width;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t row) const {
    LossSums out;
    const float* scores = x + row * width;
    for (std::int64_t c = 0; dx != nullptr && c < width; ++c) dx[row * width + c] = 0.0f;
    if (row < header->valid) {
      const std::int64_t label = labels[row];
      std::int64_t rival = label == 0 ? 1 : 0;
      bool right = true;
      for (std::int64_t c = rival; c < width; ++c) {
        if (c == label) continue;
        if (c != rival && (scores[c] > scores[rival] || scores[c] != scores[c])) rival = c;
        right = right && (c < label ? scores[c] < scores[label] : scores[c] <= scores[label]);
      }
      const double margin = 1.0 + static_cast<double>(scores[rival]) - static_cast<double>(scores[label]);
      // Written so that NaN stays NaN.
      out.loss = margin <= 0 ? 0.0 : margin;
      out.correct = right ? 1.0 : 0.0;
      out.weight = out.counted = 1.0;
      if (dx != nullptr && !(margin <= 0)) {
        dx[row * width + rival] = *loss_scale;
        dx[row * width + label] = -*loss_scale;
      }
    }
    row_sums[row] = out;
  }
};

}  // namespace

const OwnOp& own_hinge() {
  static const OwnOp op = {[](const OpNode&, const lockstep::Graph&, std::int64_t) { return OwnNeeds{}; },
                           [](const OwnCall& call) {
                             call.launcher.each(
                                 call.rows,
                                 HingeRow{static_cast<const float*>(call.x[0]), call.labels, call.row_sums,
                                          static_cast<float*>(call.dx[0]), call.header, call.loss_scale,
                                          call.graph.shape_of(call.node.inputs[0]).elements()});
                           },
                           nullptr};
  return op;
}

}  // namespace lockstep::cuda
