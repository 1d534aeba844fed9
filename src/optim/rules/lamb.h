#pragma once

#include "optim/rules/rule.h"

// You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", ICLR 2020, algorithm
// 2, with phi(x) = x.

namespace lockstep::rules {

/// m = beta1 m + (1 - beta1) s;  v = beta2 v + (1 - beta2) s^2;
/// u = m / (1 - beta1^t) / (sqrt(v) / sqrt(1 - beta2^t) + epsilon) + weight_decay p, t = step + 1;
/// p -= lr trust u, where trust = |p| / |u|, or 1 where one of the norms is 0
struct Lamb : Defaults {
  static constexpr std::string_view name = "lamb";
  static constexpr int slots = 2;
  static constexpr std::array<std::string_view, slots> states = {"exp_avg", "exp_avg_sq"};
  static constexpr Need need = Need::norms;
  static constexpr unsigned keys = key_beta1 | key_beta2 | key_epsilon;
  LOCKSTEP_HOST_DEVICE static float direction(float p, const float (&s)[most_slots], const UpdateFactors& f) {
    return s[0] * f.mean_correction / (sqrtf(s[1]) / f.root_correction + f.epsilon) + f.weight_decay * p;
  }
  LOCKSTEP_HOST_DEVICE static float measured(float p, float g, float (&s)[most_slots],
                                             const UpdateFactors& f) {
    s[0] = f.beta1 * s[0] + f.rest1 * g;
    s[1] = f.beta2 * s[1] + f.rest2 * (g * g);
    return direction(p, s, f);
  }
  static double trust(double parameter, double step, double, double) {
    return parameter == 0 || step == 0 ? 1 : parameter / step;
  }
  LOCKSTEP_HOST_DEVICE static void update(float& p, float, float (&s)[most_slots], const UpdateFactors& f,
                                          float trust) {
    p = p - f.lr * (trust * direction(p, s, f));
  }
};

}  // namespace lockstep::rules
