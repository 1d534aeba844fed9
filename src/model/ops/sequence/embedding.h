#pragma once

#include <cstdint>

#include "model/graph/op_entry.h"

namespace lockstep::ops {

/// y[..., d] = w[x[...], d] for whole numbers x in [0, vocabulary). Parameter: weight (vocabulary, width).
/// Its gradient adds up in the order of (row, position).
const OpEntry& embedding_op();

}  // namespace lockstep::ops

namespace lockstep {

struct EmbeddingAttrs {
  std::int64_t vocabulary = 0;
  std::int64_t width = 0;
  static const OpEntry& entry() { return ops::embedding_op(); }
};

}  // namespace lockstep
