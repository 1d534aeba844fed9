#include "model/cuda/ops/own_work.h"
#include "model/ops/linear/matmul.h"

namespace lockstep::cuda {
namespace {

/// Values of rank 3 are channels-last on a GPU: their first axis varies fastest. Where element (p, i, j) of a
/// (rows x products, rows_in_product, columns) lies.
struct MatrixPlaces {
  std::int64_t products, first, second;
  bool channels_last;
  LOCKSTEP_HOST_DEVICE std::int64_t at(std::int64_t p, std::int64_t i, std::int64_t j) const {
    if (!channels_last) return (p * first + i) * second + j;
    const std::int64_t row = p / products;
    return ((row * first + i) * second + j) * products + p % products;
  }
};
MatrixPlaces places_of(const Shape& shape) {
  const std::size_t rank = shape.rank();
  std::int64_t products = 1;
  for (std::size_t d = 0; d + 2 < rank; ++d) products *= shape[d];
  return {products, shape[rank - 2], shape[rank - 1], rank == 3};
}

/// to[p, i, j] = sum over k of a[p, i, k] b[p, k, j], either operand read transposed where told. Item:
/// element.
template <class T>
struct ProductOfMatrices {
  const T *a, *b;
  T* to;
  MatrixPlaces a_at, b_at, to_at;
  bool a_transposed, b_transposed;
  std::int64_t length;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t item) const {
    const std::int64_t j = item % to_at.second, i = item / to_at.second % to_at.first;
    const std::int64_t p = item / to_at.second / to_at.first;
    float sum = 0.0f;
    for (std::int64_t k = 0; k < length; ++k)
      sum += load(a[a_transposed ? a_at.at(p, k, i) : a_at.at(p, i, k)]) *
             load(b[b_transposed ? b_at.at(p, j, k) : b_at.at(p, k, j)]);
    store(to[to_at.at(p, i, j)], sum);
  }
};

}  // namespace

const OwnOp& own_matmul() {
  static const OwnOp op = {
      [](const OpNode&, const lockstep::Graph&, std::int64_t) { return OwnNeeds{.input = true}; },
      [](const OwnCall& call) {
        const Shape &a = call.graph.shape_of(call.node.inputs[0]),
                    &b = call.graph.shape_of(call.node.inputs[1]);
        const MatmulShape s(call.node.attrs, a, b);
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          call.launcher.each(call.elements(call.node.output),
                             ProductOfMatrices<T>{
                                 static_cast<const T*>(call.x[0]), static_cast<const T*>(call.x[1]),
                                 static_cast<T*>(call.y), places_of(a), places_of(b),
                                 places_of(call.graph.shape_of(call.node.output)), false, s.transposed, s.k});
        });
      },
      [](const OwnCall& call) {
        const Shape &a = call.graph.shape_of(call.node.inputs[0]),
                    &b = call.graph.shape_of(call.node.inputs[1]);
        const MatrixPlaces at_c = places_of(call.graph.shape_of(call.node.output));
        const MatmulShape s(call.node.attrs, a, b);
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          const auto *x = static_cast<const T*>(call.x[0]), *y = static_cast<const T*>(call.x[1]);
          const auto* dc = static_cast<const T*>(call.dy);
          if (call.dx[0] != nullptr)
            call.launcher.each(call.elements(call.node.inputs[0]),
                               ProductOfMatrices<T>{dc, y, static_cast<T*>(call.dx[0]), at_c, places_of(b),
                                                    places_of(a), false, !s.transposed, s.n});
          if (call.dx[1] == nullptr) return;
          // db = a^T dc, or dc^T a where b is transposed.
          const auto work =
              s.transposed
                  ? ProductOfMatrices<T>{dc,
                                         x,
                                         static_cast<T*>(call.dx[1]),
                                         at_c,
                                         places_of(a),
                                         places_of(b),
                                         true,
                                         false,
                                         s.m}
                  : ProductOfMatrices<T>{
                        x,     dc, static_cast<T*>(call.dx[1]), places_of(a), at_c, places_of(b), true,
                        false, s.m};
          call.launcher.each(call.elements(call.node.inputs[1]), work);
        });
      }};
  return op;
}

}  // namespace lockstep::cuda
