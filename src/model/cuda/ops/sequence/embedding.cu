#include "model/cuda/ops/own_work.h"
#include "model/cuda/ops/shape/row_places.h"
#include "model/ops/sequence/embedding.h"

namespace lockstep::cuda {
namespace {

/// Item: (position of any row, element), in row-major order. A number outside the vocabulary gives zeros.
template <class T>
struct LookUp {
  const std::int32_t* ids;
  const float* table;
  T* y;
  RowPlaces places;
  std::int64_t row, vocabulary, width;  ///< row: elements of a row of y
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int32_t id = ids[i / width];
    const std::int64_t begin = i / row * row;
    store(y[begin + places.at(i - begin)], id >= 0 && id < vocabulary ? table[id * width + i % width] : 0.0f);
  }
};

/// One element of the table's gradient: it adds up in the order of positions. Item: (entry, element).
template <class T>
struct LookUpGradient {
  const std::int32_t* ids;
  const T* dy;
  float* gradient;
  RowPlaces places;
  std::int64_t row, positions, width;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t id = i / width, d = i % width;
    float sum = 0.0f;
    for (std::int64_t n = 0; n < positions; ++n)
      if (ids[n] == id) {
        const std::int64_t at = n * width + d, begin = at / row * row;
        sum += load(dy[begin + places.at(at - begin)]);
      }
    gradient[i] = sum;
  }
};

}  // namespace

const OwnOp& own_embedding() {
  static const OwnOp op = {
      [](const OpNode&, const lockstep::Graph&, std::int64_t) { return OwnNeeds{.input = true}; },
      [](const OwnCall& call) {
        const auto& a = call.node.attrs.as<EmbeddingAttrs>();
        const Shape& y = call.graph.shape_of(call.node.output);
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          call.launcher.each(
              call.elements(call.node.output),
              LookUp<T>{static_cast<const std::int32_t*>(call.x[0]), call.parameters[0],
                        static_cast<T*>(call.y), RowPlaces(y), y.elements(), a.vocabulary, a.width});
        });
      },
      [](const OwnCall& call) {
        const auto& a = call.node.attrs.as<EmbeddingAttrs>();
        const Shape& y = call.graph.shape_of(call.node.output);
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          call.launcher.each(
              a.vocabulary * a.width,
              LookUpGradient<T>{static_cast<const std::int32_t*>(call.x[0]), static_cast<const T*>(call.dy),
                                call.gradients[0], RowPlaces(y), y.elements(),
                                call.elements(call.node.inputs[0]), a.width});
        });
      }};
  return op;
}

}  // namespace lockstep::cuda
