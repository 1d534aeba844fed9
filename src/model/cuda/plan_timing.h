#pragma once

#include <functional>

#include "device/cuda/stream.h"
#include "model/cuda/library_plans.h"
#include "model/cuda/plan_tuner.h"

namespace lockstep::cuda {

/// Runs the candidates on `compute`, in memory of its own of the real size, and measures each: a few warm-up
/// runs, which also load its kernels, then the median of several launches of a captured graph, as it runs in
/// a step. A plan that cannot be run or captured, or whose workspace cannot be had, is left out; where there
/// is no memory for the tensors, none is measured. `seconds`: no plan is begun after that time. `progress`
/// may be empty; it is called before each plan. The host waits for the stream. Throws DeviceError where the
/// device itself has failed.
PlanTuner::Measured time_plans(PlanCandidates& candidates, const PassBytes& bytes, const Stream& compute,
                               const TuningLimits& limits, double seconds,
                               const std::function<void()>& progress);

}  // namespace lockstep::cuda
