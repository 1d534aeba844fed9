#pragma once

#include <cstdint>
#include <vector>

#include "model/graph/op_entry.h"

namespace lockstep::ops {

const OpEntry& cross_entropy_op();

}  // namespace lockstep::ops

namespace lockstep {

/// -log softmax(x)[label] of a vector of logits x along the last axis, one for each class. A row may hold
/// many vectors, each with a label of its own; a label `ignored` leaves its vector out. With smoothing e and
/// class weights w, as in PyTorch: (1 - e) w[label] (-log p[label]) + e / C sum over c of w[c] (-log p[c]),
/// and the weight of the vector is w[label].
struct CrossEntropyAttrs {
  static constexpr std::int32_t ignored = -100;
  double smoothing = 0;                   ///< in [0, 1)
  std::vector<float> class_weights = {};  ///< one for each class, at least 0; empty: all 1
  static const OpEntry& entry() { return ops::cross_entropy_op(); }
  bool is_plain() const { return smoothing == 0 && class_weights.empty(); }
};

}  // namespace lockstep
