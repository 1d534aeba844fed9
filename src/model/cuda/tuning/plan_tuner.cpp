#include "model/cuda/tuning/plan_tuner.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <limits>
#include <utility>

#include "core/clock.h"
#include "core/printable.h"
#include "core/text.h"

namespace lockstep::cuda {
namespace {

bool is_time(double seconds) {
  return std::isfinite(seconds) && seconds >= 0;
}

}  // namespace

double median(std::vector<double> values) {
  if (values.empty()) return std::numeric_limits<double>::infinity();
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::optional<std::size_t> choose_plan(std::span<const TimedPlan> plans, double margin) {
  double fastest = std::numeric_limits<double>::infinity();
  for (const TimedPlan& p : plans)
    if (is_time(p.seconds)) fastest = std::min(fastest, p.seconds);
  for (std::size_t i = 0; i < plans.size(); ++i)
    if (is_time(plans[i].seconds) && plans[i].seconds <= fastest * (1 + margin)) return i;
  return std::nullopt;
}

std::string describe(const TuningReport& r) {
  std::string text = fmt::format("autotuning: the plans of {} passes measured in {}, those of {} taken from ",
                                 r.tuned, human_duration(r.seconds), r.cached);
  text += r.cache_path.empty() ? "no cache" : fmt::format("'{}'", r.cache_path);
  if (r.untuned > 0)
    text += fmt::format("; {} passes left to the heuristics, the first since {}", r.untuned, r.why_untuned);
  return text;
}

std::string describe(const TuningCircumstances& c) {
  return printable(fmt::format("{}, compute capability {}.{}; {}; {}; {}; {}; {} bytes of workspace",
                               c.device, c.capability_major, c.capability_minor, c.driver, c.libraries,
                               c.precision, c.deterministic ? "deterministic" : "not deterministic",
                               c.workspace_bytes));
}

PlanTuner::PlanTuner(const TuningCircumstances& circumstances, std::string cache_path,
                     const TuningLimits& limits, Clock clock)
    : circumstances_(describe(circumstances)),
      limits_(limits),
      clock_(clock ? std::move(clock) : steady_seconds),
      cache_(std::move(cache_path)) {}

std::string PlanTuner::pick(const std::string& what, const Offered& offered, const Measure& measure) {
  const std::string key = circumstances_ + "; " + what;
  const bool counts = counted_.insert(what).second;
  if (const auto known = cache_.find(key); known && offered(known->plan)) {
    if (counts) ++report_.cached;
    return known->plan;
  }
  const auto leave = [&](const std::string& why) {
    if (counts && report_.untuned++ == 0) report_.why_untuned = why;
    return std::string();
  };
  const double left = limits_.total_seconds - spent_;
  if (left <= 0)
    return leave(fmt::format("autotuning may take {} in all", human_duration(limits_.total_seconds)));
  const double begin = clock_();
  const Measured measured = measure(limits_, std::min(left, limits_.shape_seconds));
  const double took = std::max(0.0, clock_() - begin);
  spent_ += took;
  report_.seconds += took;
  if (measured.plans.empty() && measured.problem.empty()) return {};  // the library has none
  const auto chosen = choose_plan(measured.plans, limits_.margin);
  if (!chosen) return leave(fmt::format("of {} no plan could be measured: {}", what, measured.problem));
  const TimedPlan& best = measured.plans[*chosen];
  if (!offered(best.name))
    return leave(fmt::format("of {} the fastest plan cannot be had by its name", what));
  cache_.set({key, best.name, best.seconds});
  // A process that is killed while it measures loses little.
  const double now = clock_();
  if (!unsaved_since_) unsaved_since_ = begin;
  if (now - *unsaved_since_ >= limits_.save_seconds) save();
  if (counts) ++report_.tuned;
  return best.name;
}

TuningReport PlanTuner::take_report() {
  TuningReport report = std::exchange(report_, {});
  report.cache_path = cache_.path();
  if (!cache_.problem().empty() && !std::exchange(problem_told_, true))
    report.cache_problem = cache_.problem();
  return report;
}

}  // namespace lockstep::cuda
