#pragma once

#include "optim/rules/rule.h"

// Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, with epsilon where torch.optim.Adam
// has it.

namespace lockstep::rules {

/// g = s + weight_decay p;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
/// p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon), t = step + 1
struct Adam : Defaults {
  static constexpr std::string_view name = "adam";
  static constexpr int slots = 2;
  static constexpr std::array<std::string_view, slots> states = {"exp_avg", "exp_avg_sq"};
  static constexpr unsigned keys = key_beta1 | key_beta2 | key_epsilon;
  LOCKSTEP_HOST_DEVICE static void update(float& p, float mean_gradient, float (&s)[most_slots],
                                          const UpdateFactors& f) {
    const float g = mean_gradient + f.weight_decay * p;
    const float m = f.beta1 * s[0] + f.rest1 * g;
    const float v = f.beta2 * s[1] + f.rest2 * (g * g);
    s[0] = m;
    s[1] = v;
    const float kept = p * f.shrink;
    p = kept - f.step_size * (m / (sqrtf(v) / f.root_correction + f.epsilon));
  }
};

}  // namespace lockstep::rules
