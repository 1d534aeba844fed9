// When a training run saves, and what.

#include "core/flight_recorder.h"
#include "trainer/run/training_run.h"

namespace lockstep {

void TrainingRun::hold_best() {
  new_best_ = false;
  const std::span<const float> weights = step_->parameters();
  if (!held_best_) held_best_.emplace();
  held_best_->state = state();
  held_best_->weights.assign(weights.begin(), weights.end());
}

void TrainingRun::save_best() {
  if (!new_best_ && !held_best_) return;
  const FlightScope scope(job_.comm.recorder(), Activity::save);
  if (new_best_)
    checkpoints_->save_best(state());
  else
    checkpoints_->save_best_of(held_best_->state, held_best_->weights);
  new_best_ = false;
  held_best_.reset();
}

void TrainingRun::save_due(bool due, bool must) {
  const bool hurries = must || config_.checkpoint.every_steps > 0 || !config_.checkpoint.async;
  if (hurries) {
    // The best first: no checkpoint names weights of which there is no copy.
    save_best();
    if (due || must) save_checkpoint(must);
    return;
  }
  if (!due) return;
  if (checkpoints_->busy()) {
    if (new_best_) hold_best();
  } else if (new_best_) {
    const FlightScope scope(job_.comm.recorder(), Activity::save);
    check_parameters();
    const std::int64_t begin = timeline_.enabled() ? timeline_.now() : 0;
    const bool begun = checkpoints_->save_with_best(state());
    if (timeline_.enabled()) timeline_.record(EventKind::save, 0, steps_, 0, begin, timeline_.now());
    if (begun) {
      new_best_ = false;
      held_best_.reset();
    } else {
      hold_best();
    }
  } else if (held_best_) {
    save_best();
  } else {
    save_checkpoint();
  }
}

}  // namespace lockstep
