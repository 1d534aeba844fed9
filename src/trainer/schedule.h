#pragma once

#include <cstdint>

#include "trainer/config.h"

namespace lockstep {

/// The learning rate as a function of the step, nothing else. Steps count from 0: step s is the update after
/// s others.
///   s < W (warmup_steps)   lr (s + 1) / W: linear, so that the last warm-up step has exactly lr
///                          (Goyal et al. 2017, section 2.2)
///   constant               lr
///   cosine, W <= s < H     min_lr + (lr - min_lr) (1 + cos(pi (s - W) / (H - W))) / 2: exactly lr at W
///                          (Loshchilov and Hutter 2017, eq. 5, one period), H the horizon `steps`
///   cosine, s >= H         min_lr
/// In float64.
class Schedule {
 public:
  /// `options.steps` is resolved: with cosine it must be positive and no less than warmup_steps, else
  /// ConfigError.
  Schedule(const Config::Schedule& options, double lr);
  double lr_at(std::int64_t step) const;

 private:
  Config::Schedule options_;
  double lr_;
};

}  // namespace lockstep
