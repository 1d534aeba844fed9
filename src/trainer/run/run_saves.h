#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "trainer/checkpoint/run_checkpoints.h"
#include "trainer/checkpoint/run_state.h"
#include "trainer/run/run_parts.h"

namespace lockstep {

/// When a training run saves, and what; and how it goes back to what it saved. Calls are by all ranks, in the
/// same order, where nothing else is said.
class RunSaves {
 public:
  /// Writes nothing. `parts` must outlive this object.
  explicit RunSaves(RunParts& parts);

  RunCheckpoints& checkpoints() { return checkpoints_; }
  const RunCheckpoints& checkpoints() const { return checkpoints_; }
  /// For files that generations do not keep apart: asked before they get their name, on rank 0, so that a job
  /// that was cut off replaces none of its successor's.
  std::function<void()> while_mine() const;

  /// (one) What a checkpoint of this step holds.
  RunState state() const;
  /// After a step: saves what is due. `due`: a checkpoint; `must`: it has to be whole before anything else
  /// happens. Checkpoints at the end of epochs make nothing wait: while one is being written, the next is
  /// left out, and the best weights are held until there is room for them. Throws DivergenceError where a
  /// parameter is not finite: such are never saved.
  void save_due(bool due, bool must);
  /// A checkpoint of this step, waited for.
  void save_now() { save_checkpoint(true); }

  /// Brings model, optimizer, guards and course to the newest whole checkpoint; false where there is none.
  /// Throws, alike on every rank, where it was not saved by a run of this config on these data.
  bool restore();
  /// Brings them to the beginning of the run.
  void start_over();

 private:
  void check_is_of_this_run(const RunState& state) const;
  void check_parameters();
  bool save_checkpoint(bool wait = false);
  /// The best weights that were found since the last save, or are held.
  void save_best();
  void hold_best();

  RunParts& run_;
  RunCheckpoints checkpoints_;
  struct HeldBest {
    RunState state;
    std::vector<float> weights;
  };
  std::optional<HeldBest> held_best_;  // of an earlier step, not saved yet
};

}  // namespace lockstep
