#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "model/cuda/tuning/plan_cache.h"

// Which of a library's plans is taken, from measured times and from what was measured before. Needs no CUDA:
// what measures is handed in.

namespace lockstep::cuda {

/// The most that autotuning may cost. What is not measured within it is left to the heuristics.
struct TuningLimits {
  std::size_t plans = 10;      ///< of one pass and shape, the first of the heuristics
  double shape_seconds = 10;   ///< for one pass and shape: no further plan is begun after it
  double total_seconds = 300;  ///< for all of a process
  double margin = 0.03;        ///< a later plan must be faster by this part
  double save_seconds = 10;    ///< what was found reaches the cache file after this time at the latest
};

/// A plan that was run, and how long it took.
struct TimedPlan {
  std::string name;
  double seconds = 0;
};

/// The middle value, of an even count the lower of the two; not finite for none.
double median(std::vector<double> values);

/// The first of `plans`, which stand in the heuristics' order, that takes at most (1 + margin) times as long
/// as the fastest: differences below `margin` are noise, and noise must not decide. None where no time is
/// finite and at least 0.
std::optional<std::size_t> choose_plan(std::span<const TimedPlan> plans, double margin);

/// What autotuning did, for the log.
struct TuningReport {
  std::size_t tuned = 0;    ///< passes and shapes whose plans were measured
  std::size_t cached = 0;   ///< taken from the cache file
  std::size_t untuned = 0;  ///< left to the heuristics
  double seconds = 0;       ///< that measuring took
  std::string why_untuned;  ///< of the first of those
  std::string cache_path;
  std::string cache_problem;  ///< PlanCache::problem()
  bool empty() const { return tuned + cached + untuned == 0 && cache_problem.empty(); }
};
/// "autotuning: the plans of 53 passes measured in 21s, those of 12 taken from '…'", one line.
std::string describe(const TuningReport& report);

/// All that decides which plan of a shape is fastest, or may be taken.
struct TuningCircumstances {
  std::string device;  ///< its model and size
  int capability_major = 0, capability_minor = 0;
  std::string driver;
  std::string libraries;  ///< with their versions
  std::string precision;
  bool deterministic = true;
  std::size_t workspace_bytes = 0;
};
/// As it stands in the cache's keys, one line.
std::string describe(const TuningCircumstances& circumstances);

/// Chooses plans for one device, one precision and one set of limits. One per process; executors that share
/// it take the same plan for the same shape.
class PlanTuner {
 public:
  /// What measuring gave: plans in the heuristics' order, or why none could be measured. Neither: the library
  /// has none.
  struct Measured {
    std::vector<TimedPlan> plans;
    std::string problem;
  };
  /// Makes the named plan ready if the library has it.
  using Offered = std::function<bool(const std::string& plan)>;
  /// Measures, and begins no plan more after `seconds`.
  using Measure = std::function<Measured(const TuningLimits& limits, double seconds)>;
  using Clock = std::function<double()>;  ///< seconds

  /// `clock` may be empty: the steady clock.
  PlanTuner(const TuningCircumstances& circumstances, std::string cache_path, const TuningLimits& limits = {},
            Clock clock = {});

  /// The plan for `what`: the cache's where the library offers it still, else the one that is measured to be
  /// fastest; empty: whatever the heuristics say.
  std::string pick(const std::string& what, const Offered& offered, const Measure& measure);
  /// Keeps what was found. Never throws on account of the file.
  void save() {
    cache_.save();
    unsaved_since_.reset();
  }
  /// Since the last time.
  TuningReport take_report();

 private:
  std::string circumstances_;
  TuningLimits limits_;
  Clock clock_;
  PlanCache cache_;
  std::set<std::string> counted_;  ///< every `what` counts once
  double spent_ = 0;
  std::optional<double> unsaved_since_;
  TuningReport report_;
  bool problem_told_ = false;
};

}  // namespace lockstep::cuda
