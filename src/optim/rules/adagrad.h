#pragma once

#include "optim/rules/rule.h"

// Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization",
// JMLR 12, 2011, in the form of torch.optim.Adagrad with lr_decay 0: schedules are there for that.

namespace lockstep::rules {

/// g = s + weight_decay p;  v = v + g^2;  p -= lr g / (sqrt(v) + epsilon)
struct Adagrad : Defaults {
  static constexpr std::string_view name = "adagrad";
  static constexpr int slots = 1;
  static constexpr std::array<std::string_view, slots> states = {"sum"};
  static constexpr unsigned keys = key_epsilon;
  LOCKSTEP_HOST_DEVICE static void update(float& p, float mean_gradient, float (&s)[most_slots],
                                          const UpdateFactors& f) {
    const float g = mean_gradient + f.weight_decay * p;
    const float v = s[0] + g * g;
    s[0] = v;
    p = p - f.lr * (g / (sqrtf(v) + f.epsilon));
  }
};

}  // namespace lockstep::rules
