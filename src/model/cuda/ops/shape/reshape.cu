#include "model/cuda/ops/own_work.h"
#include "model/graph/strides.h"
#include "model/ops/shape/reshape.h"

namespace lockstep::cuda {
namespace {

/// Where element i of a row in row-major order lies.
struct RowPlaces {
  std::int64_t extent[most_axes], step[most_axes];
  explicit RowPlaces(const Shape& shape) {
    const Strides strides(shape, true);
    for (std::size_t axis = 0; axis < most_axes; ++axis) {
      extent[axis] = strides.extent[axis];
      step[axis] = strides.step[axis];
    }
  }
  LOCKSTEP_HOST_DEVICE std::int64_t at(std::int64_t i) const {
    std::int64_t place = 0;
    for (int axis = 3; axis >= 0; --axis) {
      place += i % extent[axis] * step[axis];
      i /= extent[axis];
    }
    return place;
  }
};

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
