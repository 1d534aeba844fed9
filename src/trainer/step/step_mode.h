#pragma once

#include "core/timeline.h"
#include "trainer/step/train_step.h"

namespace lockstep {

/// How a step goes, decided by its options and where the flat buffers lie.
struct StepMode {
  bool on_device = false;       ///< the flat buffers lie on a device
  bool device_decides = false;  ///< a step goes without the host's word in the middle
  bool whole = false;           ///< a step is one piece of work for the device
  int most_in_flight = 1;       ///< how many steps may be under way at once
  GradientSyncOptions sync;     ///< options.sync, with what the step asks for besides
};
StepMode step_mode(const TrainStepOptions& options, int ranks, const Timeline* timeline);

}  // namespace lockstep
