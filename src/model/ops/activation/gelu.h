#pragma once

#include "model/graph/op_entry.h"

namespace lockstep::ops {

/// The formula at GeluAttrs. At minus infinity it is 0 * infinity, NaN, as it stands.
const OpEntry& gelu_op();

}  // namespace lockstep::ops

namespace lockstep {

/// Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", section 2, in the form with tanh that GPT-2 and
/// cuBLASLt's epilogue have: x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
struct GeluAttrs {
  static const OpEntry& entry() { return ops::gelu_op(); }
};

}  // namespace lockstep
