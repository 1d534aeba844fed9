#pragma once

#include "optim/rules/rule.h"

// You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks", 2017, algorithm 1, with the
// momentum of torch.optim.SGD, which holds no learning rate.

namespace lockstep::rules {

/// v = momentum v + trust (s + weight_decay p);  p -= lr v, where
/// trust = coefficient |p| / (|s| + weight_decay |p|), or 1 where one of the norms is 0
struct Lars : Defaults {
  static constexpr std::string_view name = "lars";
  static constexpr int slots = 1;
  static constexpr std::array<std::string_view, slots> states = {"momentum_buffer"};
  static constexpr Need need = Need::norms;
  static constexpr unsigned keys = key_momentum | key_trust;
  LOCKSTEP_HOST_DEVICE static float measured(float, float g, float (&)[most_slots], const UpdateFactors&) {
    return g;
  }
  static double trust(double parameter, double gradient, double coefficient, double weight_decay) {
    if (parameter == 0 || gradient == 0) return 1;
    return coefficient * parameter / (gradient + weight_decay * parameter);
  }
  LOCKSTEP_HOST_DEVICE static void update(float& p, float g, float (&s)[most_slots], const UpdateFactors& f,
                                          float trust) {
    const float v = f.momentum * s[0] + trust * (g + f.weight_decay * p);
    s[0] = v;
    p = p - f.lr * v;
  }
};

}  // namespace lockstep::rules
