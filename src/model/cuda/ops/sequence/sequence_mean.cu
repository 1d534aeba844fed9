#include "model/cuda/ops/own_work.h"
#include "model/ops/sequence/sequence_mean.h"

namespace lockstep::cuda {
namespace {

/// Item: (row, feature).
template <class T>
struct MeanOfSequence {
  const T* x;
  T* y;
  const std::int32_t* lengths;
  std::int64_t positions, features;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t n = i / features, f = i % features;
    const T* row = x + n * positions * features + f;
    double sum = 0;
    const std::int64_t length = lengths == nullptr ? positions : lengths[n];
    for (std::int64_t begin = 0; begin < length; begin += position_tile) {
      double tile = 0;
      for (std::int64_t t = begin; t < begin + position_tile && t < length; ++t)
        tile += static_cast<double>(load(row[t * features]));
      sum += tile;
    }
    store(y[i], length > 0 ? static_cast<float>(sum / static_cast<double>(length)) : 0.0f);
  }
};

/// Item: element of dx.
template <class T>
struct MeanOfSequenceGradient {
  const T* dy;
  T* dx;
  const std::int32_t* lengths;
  std::int64_t positions, features;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t f = i % features, t = i / features % positions, n = i / features / positions;
    const std::int64_t length = lengths == nullptr ? positions : lengths[n];
    store(dx[i], t < length ? static_cast<float>(static_cast<double>(load(dy[n * features + f])) /
                                                 static_cast<double>(length))
                            : 0.0f);
  }
};

}  // namespace

const OwnOp& own_sequence_mean() {
  static const OwnOp op = {
      [](const OpNode&, const lockstep::Graph&, std::int64_t) { return OwnNeeds{}; },
      [](const OwnCall& call) {
        const Shape& in = call.graph.shape_of(call.node.inputs[0]);
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          call.launcher.each(call.elements(call.node.output),
                             MeanOfSequence<T>{static_cast<const T*>(call.x[0]), static_cast<T*>(call.y),
                                               call.lengths, in[0], in[1]});
        });
      },
      [](const OwnCall& call) {
        if (call.dx[0] == nullptr) return;
        const Shape& in = call.graph.shape_of(call.node.inputs[0]);
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          call.launcher.each(
              call.elements(call.node.inputs[0]),
              MeanOfSequenceGradient<T>{static_cast<const T*>(call.dy), static_cast<T*>(call.dx[0]),
                                        call.lengths, in[0], in[1]});
        });
      }};
  return op;
}

}  // namespace lockstep::cuda
