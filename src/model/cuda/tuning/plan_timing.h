#pragma once

#include <functional>

#include "device/cuda/stream.h"
#include "model/cuda/tuning/plan_measure.h"

namespace lockstep::cuda {

/// measure_plans() on the current GPU: the candidates run on `compute`, on which their library must be, in
/// memory that is given back at the end. The host waits for the stream.
PlanTuner::Measured time_plans(PlanCandidates& candidates, const PassBytes& bytes, const Stream& compute,
                               const TuningLimits& limits, double seconds,
                               const std::function<void()>& progress);

}  // namespace lockstep::cuda
