#pragma once

#include <cstdint>

#include "model/graph/op_entry.h"

namespace lockstep::ops {

/// Inverted dropout: see DropoutAttrs. Outside of training it passes its input on.
const OpEntry& dropout_op();

/// The rule "uniform01(word) >= rate" in whole numbers: kept when word >> 8 >= dropout_threshold(rate).
/// Exactly the same decision, since both sides are scaled by 2^24 without rounding; the same on every device.
/// 0 <= rate < 1.
constexpr std::uint32_t dropout_threshold(double rate) {
  const double scaled = rate * 16777216.0;
  const auto whole = static_cast<std::uint32_t>(scaled);
  return static_cast<double>(whole) < scaled ? whole + 1 : whole;
}
constexpr bool dropout_keeps(std::uint32_t word, std::uint32_t threshold) {
  return (word >> 8) >= threshold;
}

}  // namespace lockstep::ops

namespace lockstep {

/// Inverted dropout: kept elements are divided by 1 - rate. Element e of sample g at op o in step t is kept
/// when uniform01(random_block(random_key(seed, dropout, t, o), g, e / 4).v[e % 4]) >= rate, e row-major in
/// the plain shape, o the index of the node in the graph.
struct DropoutAttrs {
  double rate = 0.5;
  static const OpEntry& entry() { return ops::dropout_op(); }
};

}  // namespace lockstep
