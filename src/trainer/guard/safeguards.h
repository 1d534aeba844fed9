#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/loader.h"
#include "data/normalized_field.h"
#include "trainer/config/config.h"
#include "trainer/guard/fault_hooks.h"
#include "trainer/guard/fault_search.h"
#include "trainer/guard/guard.h"
#include "trainer/guard/recompute_check.h"
#include "trainer/guard/replica_check.h"
#include "trainer/step/train_step.h"

namespace lockstep {

/// What a run does against divergence and silent corruption, in one place: the guard of losses and gradients,
/// the comparison of replicas, slices computed twice. Everything it decides, it decides alike on all ranks.
class Safeguards {
 public:
  struct Context {
    const Config& config;
    const Graph& graph;
    const EpochOrder& order;
    std::shared_ptr<const Dataset> data;
    const BatchFields& fields;       ///< of the training
    std::vector<std::string> hosts;  ///< of every rank
    Communicator& comm;
    LanePool& lanes;
    TrainStep& step;
    const FaultHooks& hooks;
    const ComputeDevice& device;
  };
  /// (all) What the context refers to must outlive it.
  explicit Safeguards(Context context);
  ~Safeguards();

  /// Whether a step with this config must ask before_update().
  static bool ask_before_update(const Config& config);

  Guard& guard() { return guard_; }
  const Guard& guard() const { return guard_; }

  /// (all) Before the step with number `step`.
  void begin_step(std::int64_t step, const LoadedBatch& batch);
  /// (all) What TrainStepOptions::before_update is to call: computes a slice again where that is due, and
  /// asks the guard.
  bool before_update(std::span<const SliceResult> results);
  /// (all) After a step that was not applied: looks for the cause. Returns the batch as one to be left out,
  /// and what the policy wants; throws DivergenceError, alike on every rank, where the run is to stop.
  struct Verdict {
    GuardPolicy policy = GuardPolicy::stop;  ///< skip or rollback
    SkippedBatch batch;
  };
  /// `last_checkpoint` (all) tells its step, and is asked where the run is not to go on as it is.
  Verdict judge(StepFault fault, const LoadedBatch& batch,
                const std::function<std::int64_t()>& last_checkpoint);

  /// Whether check_replicas() compares them then.
  bool replicas_due(std::int64_t steps, bool last) const;
  /// (all) Between two steps, `steps` done so far, `last`: no more come. What was repaired; else empty.
  std::string check_replicas(std::int64_t steps, bool last);

 private:
  class ProbeListener;
  SliceProbe& probe();

  Context c_;
  Guard guard_;
  std::unique_ptr<ReplicaCheck> replicas_;
  std::unique_ptr<ProbeListener> probe_listener_;
  std::unique_ptr<RecomputeCheck> recompute_;
  std::unique_ptr<SliceProbe> probe_;  // from the first need on
  std::int64_t step_ = 0;
  BatchRange batch_;
  bool recompute_now_ = false;
};

}  // namespace lockstep
