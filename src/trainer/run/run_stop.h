#pragma once

#include <cstdint>

#include "trainer/run/run_parts.h"
#include "trainer/run/run_saves.h"

namespace lockstep {

/// How a training run that is asked to stop learns of it and ends.
class RunStop {
 public:
  /// `parts` and `saves` must outlive this object.
  RunStop(RunParts& parts, RunSaves& saves) : run_(parts), saves_(saves) {}

  /// (one) This rank's word for StepControl: 0, or that it was asked to save and leave.
  static std::uint64_t word();
  /// (all) Whether any rank was asked to stop before the first step; then that is saved.
  bool before_first_step();
  /// Rank 0: tells the watchdog what to say should mpirun be interrupted. Cheap where no checkpoint is new.
  void tell_way_on();
  /// (all) After the checkpoint: says how to go on. Returns the exit code; throws when there is no
  /// checkpoint.
  int leave();

 private:
  /// What a user types to go on with this run.
  std::string resume_command() const;

  RunParts& run_;
  RunSaves& saves_;
  std::int64_t told_step_ = -2;  // of tell_way_on(); -2: nothing yet
};

}  // namespace lockstep
