#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/graph/op_entry.h"
#include "model/graph/op_support.h"

// Losses that are the mean over outputs of a function of one output and its target.

namespace lockstep::ops {

template <class Function>
LossSums per_target_row(const OpAttrs& attrs, const Shape& input, const double* x, const float* target,
                        const std::int32_t*, double* diff) {
  const Function f(attrs);
  const std::size_t width = at(input.elements());
  const auto n = static_cast<double>(width);
  LossSums sums{0, 0, 1, 0};
  for (std::size_t k = 0; k < width; ++k) {
    const auto t = static_cast<double>(target[k]);
    sums.loss += f.value(x[k], t) / n;
    diff[k] += f.slope(x[k], t) / n;
  }
  return sums;
}

inline Shape infer_per_target(const OpAttrs&, const std::vector<Shape>& inputs, const std::string&) {
  require(inputs.size() == 1, "a loss takes one value");
  return Shape{};
}

/// LossRule::answer_shape: as many numbers as there are outputs.
inline Shape flat_targets(const Shape& input) {
  return Shape{input.elements()};
}

inline std::int64_t per_target_flops(const OpAttrs&, const std::vector<Shape>& inputs, const Shape&) {
  return saturating_mul(4, inputs[0].elements());
}

template <class Attrs, class Function>
OpEntry per_target_entry(const char* name, std::vector<std::string> options = {}) {
  static const LossRule rule = {
      .options = std::move(options), .answer_shape = flat_targets, .row = per_target_row<Function>};
  OpEntry entry{.name = name};
  entry.traits.mixes_rows = false;
  entry.infer = infer_per_target;
  entry.flops = per_target_flops;
  entry.loss = &rule;
  entry.default_attrs = [] { return OpAttrs(Attrs{}); };
  entry.examples = [] {
    return std::vector<OpExample>{{Attrs{}, {{7}}}, {Attrs{}, {{1}}}, {Attrs{}, {{3, 5}}}};
  };
  return entry;
}

}  // namespace lockstep::ops
