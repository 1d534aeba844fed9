#include "model/cuda/ops/own_work.h"
#include "model/ops/arithmetic/multiply.h"

namespace lockstep::cuda {
namespace {

/// Item: element.
template <class T>
struct Product {
  const T* a;
  const T* b;
  T* y;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const { store(y[i], load(a[i]) * load(b[i])); }
};

}  // namespace

const OwnOp& own_multiply() {
  static const OwnOp op = {
      [](const OpNode&, const lockstep::Graph&, std::int64_t) { return OwnNeeds{.input = true}; },
      [](const OwnCall& call) {
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          call.launcher.each(call.elements(call.node.output),
                             Product<T>{static_cast<const T*>(call.x[0]), static_cast<const T*>(call.x[1]),
                                        static_cast<T*>(call.y)});
        });
      },
      [](const OwnCall& call) {
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          for (std::size_t k = 0; k < 2; ++k)
            if (call.dx[k] != nullptr)
              call.launcher.each(
                  call.elements(call.node.output),
                  Product<T>{static_cast<const T*>(call.dy), static_cast<const T*>(call.x[1 - k]),
                             static_cast<T*>(call.dx[k])});
        });
      }};
  return op;
}

}  // namespace lockstep::cuda
