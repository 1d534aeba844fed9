#pragma once

#include <cstdint>

#include "model/graph/op_entry.h"

namespace lockstep::ops {

/// The product of two values over their last two axes; the axes before those are equal: c[..., m, n] =
/// sum over k, ascending, of a[..., m, k] b[..., k, n], or of a[..., m, k] b[..., n, k] where b is
/// transposed.
const OpEntry& matmul_op();

}  // namespace lockstep::ops

namespace lockstep {

struct MatmulAttrs {
  bool transposed = false;  ///< of b
  static const OpEntry& entry() { return ops::matmul_op(); }
};

/// Extents of the products of one row, and where elements lie.
struct MatmulShape {
  std::int64_t products = 1, m = 1, n = 1, k = 1;
  bool transposed = false;
  MatmulShape(const OpAttrs& attrs, const Shape& a, const Shape& b);
  std::int64_t b_at(std::int64_t i_k, std::int64_t i_n) const {
    return transposed ? i_n * k + i_k : i_k * n + i_n;
  }
};

}  // namespace lockstep
