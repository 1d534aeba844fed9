#pragma once

#include "optim/rules/adam.h"

namespace lockstep::rules {

/// Adam with g = s, after p *= 1 - lr weight_decay: Loshchilov and Hutter, "Decoupled Weight Decay
/// Regularization", ICLR 2019. Which of the two it is, is a matter of the factors alone.
struct AdamW : Adam {
  static constexpr std::string_view name = "adamw";
  static constexpr bool shrinks = true;
};

}  // namespace lockstep::rules
