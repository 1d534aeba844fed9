#pragma once

#include <string>
#include <vector>

#include "core/error.h"
#include "model/graph/op_support.h"

// What losses on labels have in common: their input is a score for each class.

namespace lockstep::ops {

/// `takes`: what the loss calls its input, for messages.
inline Shape infer_scores(const std::vector<Shape>& inputs, const std::string& layer, const char* loss,
                          const char* takes) {
  require(inputs.size() == 1, "a loss takes one value");
  if (inputs[0].rank() != 1)
    throw ConfigError(layer + ": " + loss + " takes " + takes + " of shape (classes), but the output is " +
                      inputs[0].text() + "; end the model with flatten and dense");
  return Shape{};
}

/// LossRule::answer_shape: one label for the vector of scores along the last axis.
inline Shape labels_of_scores(const Shape& input) {
  return Shape(std::vector<std::int64_t>(input.begin(), input.end() - 1));
}

/// The place of the largest score, the first of equal ones.
inline std::size_t first_largest(const double* x, std::size_t n) {
  std::size_t best = 0;
  for (std::size_t c = 1; c < n; ++c)
    if (x[c] > x[best]) best = c;
  return best;
}

}  // namespace lockstep::ops
