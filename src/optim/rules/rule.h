#pragma once

#include <array>
#include <cmath>
#include <string_view>

#include "core/numerics/philox.h"
#include "optim/rules/factors.h"

// An optimizer rule is one file of this folder: a struct with the formula of one element, for the host and
// for a device, and with what the rest of the program must know of it. A new rule is such a file and a line
// in optim/rules/table.h.

namespace lockstep::rules {

/// What a rule must see to move an element.
enum class Need {
  elements,  ///< the element's own gradient and state
  norms      ///< two norms of the parameter besides, from which `trust` makes a factor
};

/// For which optimizer.momentum and optimizer.nesterov a rule is; `any` for rules without them.
enum class Momentum { any, none, plain, nesterov };

/// The keys that only some rules read.
enum Key : unsigned {
  key_momentum = 1,
  key_nesterov = 2,
  key_beta1 = 4,
  key_beta2 = 8,
  key_epsilon = 16,
  key_trust = 32
};

/// State buffers of a rule, at most.
inline constexpr int most_slots = 2;

/// What a rule says of itself unless it says otherwise. Besides, it has
/// * name: of optimizer.name;
/// * states: names of its state buffers as in PyTorch, `slots` of them; state starts at 0;
/// * update(p, g, s, f): moves the parameter p and its state s, g its mean gradient, clipped. Zeros stay
/// zeros
///   where gradient and state are 0: such is the padding of the flat buffers.
/// And with Need::norms
/// * measured(p, g, s, f): the element of what the second norm is taken of; the first is the parameter's. It
///   may move the state. It is called for all elements before update(), which gets `trust` behind f;
/// * trust: of the two norms, options.trust and the weight decay, in float64; rounded once.
struct Defaults {
  static constexpr int slots = 0;
  static constexpr Need need = Need::elements;
  static constexpr Momentum momentum = Momentum::any;
  static constexpr unsigned keys = 0;
  static constexpr double (*trust)(double, double, double, double) = nullptr;
  static constexpr bool shrinks = false;  ///< weight decay is UpdateFactors::shrink, not weight_decay
};

}  // namespace lockstep::rules
