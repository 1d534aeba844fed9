#include "model/cuda/ops/own_work.h"
#include "model/cuda/ops/shape/row_places.h"
#include "model/ops/shape/reshape.h"

namespace lockstep::cuda {
namespace {

/// Item: (row, element in row-major order).
template <class T>
struct MoveElements {
  const T* from;
  T* to;
  RowPlaces from_at, to_at;
  std::int64_t row;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t begin = i / row * row;
    to[begin + to_at.at(i - begin)] = from[begin + from_at.at(i - begin)];
  }
};

}  // namespace

const OwnOp& own_reshape() {
  static const OwnOp op = {
      [](const OpNode&, const lockstep::Graph&, std::int64_t) { return OwnNeeds{}; },
      [](const OwnCall& call) {
        const Shape &in = call.graph.shape_of(call.node.inputs[0]),
                    &out = call.graph.shape_of(call.node.output);
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          call.launcher.each(call.elements(call.node.output),
                             MoveElements<T>{static_cast<const T*>(call.x[0]), static_cast<T*>(call.y),
                                             RowPlaces(in), RowPlaces(out), in.elements()});
        });
      },
      [](const OwnCall& call) {
        if (call.dx[0] == nullptr) return;
        const Shape &in = call.graph.shape_of(call.node.inputs[0]),
                    &out = call.graph.shape_of(call.node.output);
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          call.launcher.each(call.elements(call.node.output),
                             MoveElements<T>{static_cast<const T*>(call.dy), static_cast<T*>(call.dx[0]),
                                             RowPlaces(out), RowPlaces(in), in.elements()});
        });
      }};
  return op;
}

}  // namespace lockstep::cuda
