#include "optim/schedule.h"

#include <cmath>
#include <fmt/core.h>
#include <numbers>

#include "core/counted.h"
#include "core/error.h"
#include "core/text.h"

namespace lockstep {

std::optional<std::vector<std::int64_t>> parse_steps(const std::string& text) {
  std::vector<std::int64_t> steps;
  for (const std::string_view field : split(text, ',')) {
    const auto step = parse_int64(trim(field));
    if (!step || *step < 1 || (!steps.empty() && *step <= steps.back())) return std::nullopt;
    steps.push_back(*step);
  }
  return steps;
}

Schedule::Schedule(const ScheduleOptions& options, double lr) : options_(options), lr_(lr) {
  if (options_.name != "constant" && options_.name != "cosine" && options_.name != "step") {
    throw ConfigError(
        fmt::format("schedule.name: there is no schedule \"{}\" (constant, cosine, step)", options_.name));
  }
  if (options_.name == "cosine" && (options_.steps <= 0 || options_.steps < options_.warmup_steps)) {
    throw ConfigError(
        fmt::format("schedule.steps: the cosine schedule ends at step {}, but warm-up takes {}: set "
                    "schedule.steps or train.epochs higher, or schedule.warmup_steps lower",
                    options_.steps, counted(options_.warmup_steps, "step")));
  }
  if (options_.name != "step") return;
  const auto milestones = parse_steps(options_.milestones);
  if (!milestones)
    throw ConfigError(fmt::format(
        "schedule.milestones: \"{}\" is not a list of rising steps such as 3000,6000, which schedule.name = "
        "step needs",
        options_.milestones));
  if (milestones->front() < options_.warmup_steps)
    throw ConfigError(fmt::format(
        "schedule.milestones: the first, {}, lies within the warm-up of {} (schedule.warmup_steps)",
        milestones->front(), counted(options_.warmup_steps, "step")));
  milestones_ = *milestones;
}

double Schedule::lr_at(std::int64_t step) const {
  const std::int64_t warmup = options_.warmup_steps;
  if (step < warmup) return lr_ * (static_cast<double>(step + 1) / static_cast<double>(warmup));
  if (options_.name == "constant") return lr_;
  if (options_.name == "step") {
    double lr = lr_;
    for (const std::int64_t milestone : milestones_)
      if (step >= milestone) lr *= options_.gamma;
    return lr;
  }
  if (step >= options_.steps) return options_.min_lr;
  const double done = static_cast<double>(step - warmup) / static_cast<double>(options_.steps - warmup);
  return options_.min_lr + (lr_ - options_.min_lr) * (0.5 * (1 + std::cos(std::numbers::pi * done)));
}

}  // namespace lockstep
