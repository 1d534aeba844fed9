#include "trainer/step/step_mode.h"

namespace lockstep {
namespace {

/// Whether the synchroniser tells all ranks that the gradient is finite: while it sums up, the totals are at
/// hand. On the CPU one rank has nothing to sum up, and its lanes look faster; and of the fast reduction the
/// library does not promise equal bits on all ranks.
bool sync_watches(const TrainStepOptions& options, int ranks) {
  return (options.watch_gradient || options.device.scales_loss) &&
         options.sync.reduction == Reduction::ordered && (ranks > 1 || options.device.make_step);
}

/// Whether a device can take a step without the host's word in the middle: with Reduction::ordered all ranks
/// have the same totals, so each device decides for itself and all decide alike.
/// Not with a rule that needs norms of parameters, which the host puts together.
bool device_decides(const TrainStepOptions& options) {
  return options.device.make_step && options.sync.reduction == Reduction::ordered && !options.before_update &&
         info_of(find_rule(options.optimizer)).need == rules::Need::elements;
}

}  // namespace

StepMode step_mode(const TrainStepOptions& options, int ranks, const Timeline* timeline) {
  StepMode mode;
  mode.on_device = static_cast<bool>(options.device.make_step);
  mode.device_decides = device_decides(options);
  // A step that is to be seen in a timeline is waited for.
  const bool seen = timeline != nullptr && timeline->enabled();
  if (mode.device_decides && options.device.only_enqueues && !seen) mode.most_in_flight = options.in_flight;
  // Where a step waits for nobody and nobody looks into it, all of it can be captured.
  mode.whole =
      mode.device_decides && options.device.captures_steps && ranks == 1 && !options.after_slice && !seen;
  mode.sync = options.sync;
  if (mode.device_decides && options.clip_norm > 0)
    mode.sync.block_values = true;  // the sums that clipping needs tell also what is not finite
  else
    mode.sync.finite_marks = mode.sync.finite_marks || sync_watches(options, ranks);
  return mode;
}

}  // namespace lockstep
