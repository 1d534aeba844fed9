#include "model/cuda/tuning/plan_measure.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/error.h"

namespace lockstep::cuda {
namespace {

constexpr int warm_ups = 2;
constexpr int launches = 7;
constexpr int most_runs = 20;    // in a launch
constexpr double launch_ms = 1;  // about what a launch should take
constexpr double hopeless = 3;   // times the fastest so far: one run tells enough

/// Milliseconds of one run. `best`: of the fastest plan so far.
double time_plan(const PlanCandidates& plan, PlanBench& bench, double best) {
  const double once = bench.run(plan, warm_ups);
  // Short runs are not judged by one: what the host needs to launch them counts there.
  if (once > hopeless * std::max(best, launch_ms)) return once;
  const int runs = std::clamp(static_cast<int>(launch_ms / std::max(once, 1e-3)), 1, most_runs);
  return median(bench.launch(plan, runs, launches)) / runs;
}

}  // namespace

PlanTuner::Measured measure_plans(PlanCandidates& candidates, const PassBytes& bytes, PlanBench& bench,
                                  const TuningLimits& limits, double seconds,
                                  const std::function<void()>& progress, const PlanTuner::Clock& clock) {
  PlanTuner::Measured measured;
  double best = std::numeric_limits<double>::infinity();
  const double begin = clock();
  for (std::size_t tried = 0; tried < limits.plans && clock() - begin < seconds; ++tried) {
    if (progress) progress();
    if (!candidates.next()) break;
    const auto fails = [&](auto&& body) {
      try {
        body();
        return false;
      } catch (const DeviceError& e) {
        bench.recover();
        measured.problem = e.what();
        return true;
      }
    };
    if (tried == 0 && fails([&] { bench.take_tensors(bytes); })) return measured;
    (void)fails([&] {
      bench.take_workspace(candidates.workspace_bytes());
      const double ms = time_plan(candidates, bench, best);
      best = std::min(best, ms);
      measured.plans.push_back({candidates.name(), 1e-3 * ms});
    });
  }
  if (progress) progress();
  return measured;
}

}  // namespace lockstep::cuda
