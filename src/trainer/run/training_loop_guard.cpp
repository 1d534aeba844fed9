// What a training run does when a step is found bad, or a replica.

#include <algorithm>
#include <fmt/format.h>

#include "core/counted.h"
#include "core/error.h"
#include "data/loader.h"
#include "trainer/run/plan_choice.h"
#include "trainer/run/training_run.h"
#include "trainer/step/model_state.h"

namespace lockstep {

TrainStepOptions TrainingRun::guarded_options(TrainStepOptions options) {
  // Plans that were picked anew could differ from those that the run began with.
  if (options.device.picks_plans && config_.run.resume && !config_.run.allow_numeric_change)
    stored_plans_ = stored_plan_choices(job_.comm, config_.run.dir, config_.train.slices,
                                        config_.train.eval_batch / config_.train.slices);
  options.plan_choice = stored_plans_.training;
  if (Safeguards::ask_before_update(config_))
    options.before_update = [this](std::span<const SliceResult> results) {
      return safeguards_->before_update(results);
    };
  const FaultHooks& hooks = job_.faults;
  if (hooks.before_ready)
    options.before_ready = [this](Range range, std::span<const std::span<float>> roots) {
      job_.faults.before_ready(steps_, range, roots);
    };
  if (hooks.after_slice)
    options.after_slice = [this](std::int64_t slice, Range range, std::span<float> gradient) {
      job_.faults.after_slice(steps_, slice, range, gradient, false);
    };
  return options;
}

std::optional<StepOutcome> TrainingRun::guarded_step(const LoadedBatch& batch, double lr,
                                                     std::span<SliceResult> results) {
  Guard& guard = safeguards_->guard();
  StepOutcome outcome;
  if (guard.skips(steps_)) {
    outcome.fault = StepFault::refused;
    if (job_.leader()) job_.log.info("step {}: its batch is left out, as found before", steps_ + 1);
  } else {
    safeguards_->begin_step(steps_, batch);
    if (step_->most_in_flight() > 1) {
      step_->enqueue(batch.slices, batch.range.count, steps_, lr, guard.skipped_before(steps_));
      return outcome;  // settle_steps() will know
    }
    outcome = step_->run(batch.slices, batch.range.count, steps_, lr, results, guard.skipped_before(steps_));
    if (outcome.fault == StepFault::none || outcome.fault == StepFault::overflow) return outcome;
    Safeguards::Verdict verdict = safeguards_->judge(outcome.fault, batch, [&] {
      checkpoints_->wait();  // so that the last checkpoint is named that a resume will find
      return checkpoints_->saved_step();
    });
    const bool back = verdict.policy == GuardPolicy::rollback;
    if (job_.leader())
      job_.log.warning("step {}: {}. {} ({} of at most {})", steps_ + 1, verdict.batch.reason,
                       back ? "The run goes back, and will leave this batch out"
                            : "The step was not applied, and its batch is left out",
                       guard.skipped().size() + 1, config_.guard.limit);
    guard.skip(std::move(verdict.batch));
    if (back) {
      roll_back();
      return std::nullopt;
    }
  }
  if (metrics_) {
    for (const SkippedBatch& skipped : guard.skipped()) {
      if (skipped.step != steps_) continue;
      MetricsRecord record("skipped", steps_ + 1);
      record.add("epoch", skipped.epoch + 1).add("position", skipped.position).add("reason", skipped.reason);
      record.add("samples", skipped.samples);
      metrics_->write(record);
    }
  }
  return outcome;
}

void TrainingRun::settle_steps() {
  std::size_t i = 0;
  for (const SettledStep& settled : step_->settle()) {
    const Enqueued& enqueued = enqueued_[i++];
    if (settled.outcome.fault == StepFault::overflow) continue;
    if (settled.outcome.fault != StepFault::none) stop_at(settled);
    outcomes_.push_back(settled.outcome);
    losses_->record(settled.step, settled.results);
    if (enqueued.timed) add_times(settled.times, enqueued.load, i > 1);
  }
  enqueued_.clear();
}

void TrainingRun::stop_at(const SettledStep& settled) {
  const StepFault fault = settled.outcome.fault;
  const bool last = settled.step + 1 == steps_;
  steps_ = settled.step;
  LoaderOptions loading = loader_options();
  loading.workers = 0;
  Loader loader(*order_, std::move(loading));
  const LoadedBatch& batch = loader.next();
  safeguards_->begin_step(steps_, batch);
  if (!last) step_->compute_again(batch.slices, batch.range.count, steps_);
  (void)safeguards_->judge(fault, batch, [&] {
    checkpoints_->wait();
    return checkpoints_->saved_step();
  });
  throw Error(ExitCode::internal, "a step was not applied, and no policy says why to go on");
}

void TrainingRun::roll_back() {
  // A job that was cut off must not go on from what its successor saved, nor cut that one's metrics.
  checkpoints_->check_not_superseded();
  // What the steps since the checkpoint have told is void: they are taken again.
  losses_->flush();
  outcomes_.clear();
  const std::int64_t from = steps_;
  if (restore_newest())
    continue_files();
  else
    start_over();
  if (!job_.leader()) return;
  job_.log.warning("the run went back from step {} to step {}", from + 1, steps_);
  metrics_->write(MetricsRecord("rollback", steps_).add("from", from + 1));
}

void TrainingRun::start_over() {
  steps_ = 0;
  best_ = {};
  new_best_ = false;
  held_best_.reset();
  epoch_sums_ = {};
  safeguards_->guard().restore({});
  step_->set_loss_scale({});
  initialise_model(*graph_, step_->executor(), config_.run.seed, step_->writable_parameters());
  Optimizer& optimizer = step_->writable_optimizer();
  for (std::size_t slot = 0; slot < optimizer.state_names().size(); ++slot)
    for (const Range& range : optimizer.shard()) {
      const std::span<float> state = optimizer.state(slot, range);
      std::fill(state.begin(), state.end(), 0.0f);
    }
  agree_on_error(job_.comm, [&] {
    if (job_.leader())
      metrics_ =
          std::make_unique<MetricsFile>(MetricsFile::resume(directory_.metrics(), 0, on_lost_metrics()));
  });
}

void TrainingRun::refuse_untrained() {
  // Alike on every rank, as what was left out is.
  if (steps_ == 0 || safeguards_->guard().skipped_before(steps_) < steps_) return;
  note_divergence();
  throw_on_all(
      job_.comm,
      DivergenceError(fmt::format(
          "the batch of every step was left out ({}): nothing was trained, and no weights are written. "
          "The log tells why each was; lower optimizer.lr, or look at the values of the data",
          counted(steps_, "step"))));
}

void TrainingRun::check_replicas() {
  const std::string repaired = safeguards_->check_replicas(steps_, finished());
  if (repaired.empty() || !job_.leader()) return;
  job_.log.warning("{}", repaired);
  metrics_->write(MetricsRecord("repaired", steps_).add("reason", repaired));
}

}  // namespace lockstep
