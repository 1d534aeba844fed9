#include "trainer/schedule.h"

#include <cmath>
#include <fmt/core.h>
#include <numbers>

#include "core/error.h"

namespace lockstep {

Schedule::Schedule(const Config::Schedule& options, double lr) : options_(options), lr_(lr) {
  if (options_.name != "constant" && options_.name != "cosine") {
    throw ConfigError(
        fmt::format("schedule.name: there is no schedule \"{}\" (constant, cosine)", options_.name));
  }
  if (options_.name == "cosine" && (options_.steps <= 0 || options_.steps < options_.warmup_steps)) {
    throw ConfigError(
        fmt::format("schedule.steps: the cosine schedule ends at step {}, but warm-up takes {} steps: set "
                    "schedule.steps or train.epochs higher, or schedule.warmup_steps lower",
                    options_.steps, options_.warmup_steps));
  }
}

double Schedule::lr_at(std::int64_t step) const {
  const std::int64_t warmup = options_.warmup_steps;
  if (step < warmup) return lr_ * (static_cast<double>(step + 1) / static_cast<double>(warmup));
  if (options_.name == "constant") return lr_;
  if (step >= options_.steps) return options_.min_lr;
  const double done = static_cast<double>(step - warmup) / static_cast<double>(options_.steps - warmup);
  return options_.min_lr + (lr_ - options_.min_lr) * (0.5 * (1 + std::cos(std::numbers::pi * done)));
}

}  // namespace lockstep
