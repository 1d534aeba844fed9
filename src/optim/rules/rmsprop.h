#pragma once

#include "optim/rules/rule.h"

// Tieleman and Hinton, "Lecture 6.5: RMSprop", COURSERA: Neural Networks for Machine Learning, 2012, in the
// form of torch.optim.RMSprop, not centered. What PyTorch calls alpha is beta2 here.

namespace lockstep::rules {

/// g = s + weight_decay p;  v = beta2 v + (1 - beta2) g^2;  p -= lr g / (sqrt(v) + epsilon)
struct RmsProp : Defaults {
  static constexpr std::string_view name = "rmsprop";
  static constexpr int slots = 1;
  static constexpr std::array<std::string_view, slots> states = {"square_avg"};
  static constexpr Momentum momentum = Momentum::none;
  static constexpr unsigned keys = key_momentum | key_beta2 | key_epsilon;
  LOCKSTEP_HOST_DEVICE static void update(float& p, float mean_gradient, float (&s)[most_slots],
                                          const UpdateFactors& f) {
    const float g = mean_gradient + f.weight_decay * p;
    const float v = f.beta2 * s[0] + f.rest2 * (g * g);
    s[0] = v;
    p = p - f.lr * (g / (sqrtf(v) + f.epsilon));
  }
};

/// b = momentum b + g / (sqrt(v) + epsilon);  p -= lr b
struct RmsPropMomentum : RmsProp {
  static constexpr int slots = 2;
  static constexpr std::array<std::string_view, slots> states = {"square_avg", "momentum_buffer"};
  static constexpr Momentum momentum = Momentum::plain;
  LOCKSTEP_HOST_DEVICE static void update(float& p, float mean_gradient, float (&s)[most_slots],
                                          const UpdateFactors& f) {
    const float g = mean_gradient + f.weight_decay * p;
    const float v = f.beta2 * s[0] + f.rest2 * (g * g);
    const float b = f.momentum * s[1] + g / (sqrtf(v) + f.epsilon);
    s[0] = v;
    s[1] = b;
    p = p - f.lr * b;
  }
};

}  // namespace lockstep::rules
