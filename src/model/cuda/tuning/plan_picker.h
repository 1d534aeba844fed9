#pragma once

#include <fmt/format.h>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/cuda/library/library_plans.h"
#include "model/cuda/tuning/plan_tuner.h"

namespace lockstep::cuda {

/// A library has no plan for a command within the limits.
class NoPlan : public DeviceError {
 public:
  using DeviceError::DeviceError;
};

/// prepare(command) for all commands of a plan. Throws ConfigError that names the layer where there is no
/// plan for it.
template <class Prepare>
void prepare_commands(const Plan& plan, Prepare&& prepare) {
  for (const bool backward : {false, true}) {
    const std::vector<Command>& commands = backward ? plan.backward : plan.forward;
    for (std::size_t i = 0; i < commands.size(); ++i) {
      try {
        prepare(commands[i]);
      } catch (const NoPlan& e) {
        throw ConfigError(fmt::format("model: the {} of layer \"{}\" cannot be computed here: {}",
                                      backward ? "gradient" : "result", layer_of(plan, i, backward),
                                      e.what()));
      }
    }
  }
}

/// Which plans an executor takes from its libraries: those that were chosen elsewhere, by the rank that picks
/// or in a checkpoint; else those of the tuner, if there is one; else the heuristics'. A library has
///   bool prepare(pass, shape, plan);   makes the named plan, or for an empty name the heuristics'; throws
///                                      where the named one cannot be had
///   bool offers(pass, shape, plan);    the same, but false where it cannot be had
///   std::string name(pass, shape);     of the plan that was made
class PlanPicker {
 public:
  /// `plan_choice`: as ExecutorOptions has it. `tuner` may be null.
  PlanPicker(const std::string& plan_choice, PlanTuner* tuner)
      : named_(!plan_choice.empty()), tuner_(tuner), wanted_(plan_choice) {}

  /// Prepares the first of `passes` for which the library has a plan, or the one that was named; false where
  /// there is none. `measure(pass, limits, seconds)`: as PlanTuner::Measure.
  template <class Library, class Passes, class Shape, class Measure>
  bool pick(Library& library, const Passes& passes, const Shape& shape, const Measure& measure) {
    for (const auto pass : passes) {
      const std::string what = describe(pass, shape);
      if (!chosen_.find(what).empty()) return true;
      std::string plan = wanted_.find(what);
      // Where somebody else chose, the choice is among the names under one of these passes.
      if (named_ && plan.empty()) continue;
      if (missing_.count(what) != 0) continue;
      if (!named_ && tuner_ != nullptr)
        plan = tuner_->pick(
            what, [&](const std::string& name) { return library.offers(pass, shape, name); },
            [&](const TuningLimits& limits, double seconds) { return measure(pass, limits, seconds); });
      if (!library.prepare(pass, shape, plan)) {
        missing_.insert(what);
        continue;
      }
      chosen_.set(what, library.name(pass, shape));
      return true;
    }
    return false;
  }
  /// Every plan was chosen elsewhere.
  bool named() const { return named_; }
  /// Keeps what the tuner found.
  void save() const {
    if (tuner_ != nullptr && !named_) tuner_->save();
  }
  const PlanNames& chosen() const { return chosen_; }

 private:
  bool named_;
  PlanTuner* tuner_;
  PlanNames wanted_, chosen_;
  std::set<std::string> missing_;  ///< passes and shapes for which the library has no plan
};

}  // namespace lockstep::cuda
