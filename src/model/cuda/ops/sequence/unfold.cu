#include "model/cuda/ops/own_work.h"
#include "model/ops/sequence/unfold.h"

namespace lockstep::cuda {
namespace {

/// Item: element of y.
template <class T>
struct UnfoldWindows {
  const T* x;
  T* y;
  std::int64_t positions, features, width, before;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t f = i % features, j = i / features % width, n = i / features / width;
    const std::int64_t from = n % positions + j - before;
    store(y[i], from < 0 || from >= positions ? 0.0f : load(x[(n + j - before) * features + f]));
  }
};

/// Item: element of dx.
template <class T>
struct FoldWindows {
  const T* dy;
  T* dx;
  std::int64_t positions, features, width, before;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t f = i % features, n = i / features;
    float sum = 0.0f;
    for (std::int64_t j = 0; j < width; ++j) {
      const std::int64_t by = n % positions - j + before;
      if (by >= 0 && by < positions) sum += load(dy[((n - j + before) * width + j) * features + f]);
    }
    store(dx[i], sum);
  }
};

}  // namespace

const OwnOp& own_unfold() {
  static const OwnOp op = {
      [](const OpNode&, const lockstep::Graph&, std::int64_t) { return OwnNeeds{}; },
      [](const OwnCall& call) {
        const auto& a = call.node.attrs.as<UnfoldAttrs>();
        const Shape& in = call.graph.shape_of(call.node.inputs[0]);
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          call.launcher.each(call.elements(call.node.output),
                             UnfoldWindows<T>{static_cast<const T*>(call.x[0]), static_cast<T*>(call.y),
                                              in[0], in[1], a.width, a.before});
        });
      },
      [](const OwnCall& call) {
        if (call.dx[0] == nullptr) return;
        const auto& a = call.node.attrs.as<UnfoldAttrs>();
        const Shape& in = call.graph.shape_of(call.node.inputs[0]);
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          call.launcher.each(call.elements(call.node.inputs[0]),
                             FoldWindows<T>{static_cast<const T*>(call.dy), static_cast<T*>(call.dx[0]),
                                            in[0], in[1], a.width, a.before});
        });
      }};
  return op;
}

}  // namespace lockstep::cuda
