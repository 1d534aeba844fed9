#pragma once

#include "model/cuda/ops/own_work.h"

// What the ops that map every element by one function have in common on a GPU. `Function` is made from the
// attributes and has `float value(float x) const` and `float slope(float x) const`.

namespace lockstep::cuda {

template <class Function, class T>
struct UnaryForward {
  const T* x;
  T* y;
  Function function;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const { store(y[i], function.value(load(x[i]))); }
};

template <class Function, class T>
struct UnaryBackward {
  const T* x;
  const T* dy;
  T* dx;
  Function function;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    store(dx[i], load(dy[i]) * function.slope(load(x[i])));
  }
};

template <class Function>
const OwnOp& unary_op() {
  static const OwnOp op = {
      [](const OpNode&, const lockstep::Graph&, std::int64_t) { return OwnNeeds{.input = true}; },
      [](const OwnCall& call) {
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          call.launcher.each(call.elements(call.node.output),
                             UnaryForward<Function, T>{static_cast<const T*>(call.x[0]),
                                                       static_cast<T*>(call.y), Function(call.node.attrs)});
        });
      },
      [](const OwnCall& call) {
        if (call.dx[0] == nullptr) return;
        with_format(call.precision, [&](auto type) {
          using T = decltype(type);
          call.launcher.each(
              call.elements(call.node.output),
              UnaryBackward<Function, T>{static_cast<const T*>(call.x[0]), static_cast<const T*>(call.dy),
                                         static_cast<T*>(call.dx[0]), Function(call.node.attrs)});
        });
      }};
  return op;
}

}  // namespace lockstep::cuda
