#pragma once

#include "optim/rules/rule.h"

// Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023, algorithm 2.

namespace lockstep::rules {

/// u = sign(beta1 m + (1 - beta1) s);  p -= lr u after p *= 1 - lr weight_decay;
/// m = beta2 m + (1 - beta2) s
struct Lion : Defaults {
  static constexpr std::string_view name = "lion";
  static constexpr int slots = 1;
  static constexpr std::array<std::string_view, slots> states = {"exp_avg"};
  static constexpr unsigned keys = key_beta1 | key_beta2;
  static constexpr bool shrinks = true;
  LOCKSTEP_HOST_DEVICE static void update(float& p, float g, float (&s)[most_slots], const UpdateFactors& f) {
    const float mixed = f.beta1 * s[0] + f.rest1 * g;
    s[0] = f.beta2 * s[0] + f.rest2 * g;
    const float sign = mixed > 0.0f ? 1.0f : mixed < 0.0f ? -1.0f : mixed;  // NaN stays NaN
    p = p * f.shrink - f.lr * sign;
  }
};

}  // namespace lockstep::rules
