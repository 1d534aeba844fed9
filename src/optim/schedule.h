#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "optim/options.h"

namespace lockstep {

/// The learning rate as a function of the step, nothing else. Steps count from 0: step s is the update after
/// s others.
///   s < W (warmup_steps)   lr (s + 1) / W: linear, so that the last warm-up step has exactly lr
///                          (Goyal et al. 2017, section 2.2)
///   constant               lr
///   cosine, W <= s < H     min_lr + (lr - min_lr) (1 + cos(pi (s - W) / (H - W))) / 2: exactly lr at W
///                          (Loshchilov and Hutter 2017, eq. 5, one period), H the horizon `steps`
///   cosine, s >= H         min_lr
///   step, s >= W           lr gamma^k, k the milestones m with m <= s (Goyal et al. 2017, section 5.1)
/// In float64.
class Schedule {
 public:
  /// `options.steps` is resolved: with cosine it must be positive and no less than warmup_steps, else
  /// ConfigError; with step there must be milestones, none within the warm-up.
  Schedule(const ScheduleOptions& options, double lr);
  double lr_at(std::int64_t step) const;

 private:
  ScheduleOptions options_;
  double lr_;
  std::vector<std::int64_t> milestones_;
};

/// "3000,6000": strictly rising positive whole numbers; nothing where the text is not such a list.
std::optional<std::vector<std::int64_t>> parse_steps(const std::string& text);

}  // namespace lockstep
