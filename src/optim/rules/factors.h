#pragma once

namespace lockstep {

/// What all elements of one step share that have one learning rate and one weight decay: computed in float64
/// and rounded once.
struct UpdateFactors {
  float gradient = 0;  ///< the gradient sum times this is the mean gradient, clipped
  float mean = 0;      ///< the gradient sum times this is the mean; for statistics
  float lr = 0;
  float weight_decay = 0;  ///< as a rule's formula has it, times the parameter
  float shrink = 1;        ///< the parameter is first multiplied by this (decoupled decay)
  float momentum = 0;
  float beta1 = 0, rest1 = 0;  ///< rest = 1 - beta
  float beta2 = 0, rest2 = 0;
  float step_size = 0, root_correction = 1;  ///< see BiasCorrection
  float mean_correction = 0;                 ///< 1 / (1 - beta1^t): BiasCorrection::step_size of a rate of 1
  float epsilon = 0;
};

}  // namespace lockstep
