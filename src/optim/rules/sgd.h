#pragma once

#include "optim/rules/rule.h"

// Stochastic gradient descent: Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and
// momentum in deep learning", ICML 2013, in the form of torch.optim.SGD with dampening 0.

namespace lockstep::rules {

/// g = s + weight_decay p;  p -= lr g
struct Sgd : Defaults {
  static constexpr std::string_view name = "sgd";
  static constexpr std::array<std::string_view, 0> states = {};
  static constexpr Momentum momentum = Momentum::none;
  static constexpr unsigned keys = key_momentum | key_nesterov;
  LOCKSTEP_HOST_DEVICE static void update(float& p, float mean_gradient, float (&)[most_slots],
                                          const UpdateFactors& f) {
    const float g = mean_gradient + f.weight_decay * p;
    p = p - f.lr * g;
  }
};

/// v = momentum v + g;  p -= lr v
struct SgdMomentum : Sgd {
  static constexpr int slots = 1;
  static constexpr std::array<std::string_view, slots> states = {"momentum_buffer"};
  static constexpr Momentum momentum = Momentum::plain;
  LOCKSTEP_HOST_DEVICE static void update(float& p, float mean_gradient, float (&s)[most_slots],
                                          const UpdateFactors& f) {
    const float g = mean_gradient + f.weight_decay * p;
    const float v = f.momentum * s[0] + g;
    s[0] = v;
    p = p - f.lr * v;
  }
};

/// v = momentum v + g;  p -= lr (g + momentum v)
struct SgdNesterov : SgdMomentum {
  static constexpr Momentum momentum = Momentum::nesterov;
  LOCKSTEP_HOST_DEVICE static void update(float& p, float mean_gradient, float (&s)[most_slots],
                                          const UpdateFactors& f) {
    const float g = mean_gradient + f.weight_decay * p;
    const float v = f.momentum * s[0] + g;
    s[0] = v;
    p = p - f.lr * (g + f.momentum * v);
  }
};

}  // namespace lockstep::rules
