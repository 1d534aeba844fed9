#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "model/cuda/library/library_plans.h"
#include "model/cuda/tuning/plan_tuner.h"

namespace lockstep::cuda {

/// Where plans are run and timed: memory and clock of a device. Each function throws DeviceError.
class PlanBench {
 public:
  virtual ~PlanBench() = default;
  /// Memory for a pass, its inputs filled.
  virtual void take_tensors(const PassBytes& bytes) = 0;
  /// At least so much workspace from now on.
  virtual void take_workspace(std::size_t bytes) = 0;
  /// Milliseconds of one run, after `warm_ups` others that are not timed.
  virtual double run(const PlanCandidates& plan, int warm_ups) = 0;
  /// Milliseconds of each of `launches` launches of a captured graph of `runs` runs, after one that is not
  /// timed.
  virtual std::vector<double> launch(const PlanCandidates& plan, int runs, int launches) = 0;
  /// After a failure: makes the bench fit for the next plan. Throws where the device itself has failed.
  virtual void recover() = 0;
};

/// Measures the candidates one after another: a few warm-up runs, which also load a plan's kernels, then the
/// median of several launches of a captured graph, as the plan runs in a step, of so many runs that a
/// launch's own cost does not count. A plan that cannot be run or captured, or whose workspace cannot be had,
/// is left out; where there is no memory for the tensors, none is measured. `seconds`: no plan is begun after
/// that time. `progress` may be empty; it is called before each plan. `clock`: seconds.
PlanTuner::Measured measure_plans(PlanCandidates& candidates, const PassBytes& bytes, PlanBench& bench,
                                  const TuningLimits& limits, double seconds,
                                  const std::function<void()>& progress, const PlanTuner::Clock& clock);

}  // namespace lockstep::cuda
