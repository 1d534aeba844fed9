// What the loop of a training run does when a step is found bad, or a replica.

#include <fmt/format.h>

#include "core/counted.h"
#include "core/error.h"
#include "data/loader.h"
#include "trainer/run/training_loop.h"

namespace lockstep {

std::int64_t TrainingLoop::last_checkpoint() {
  saves_.checkpoints().wait();  // so that the one is named that a resume will find
  return saves_.checkpoints().saved_step();
}

std::optional<StepOutcome> TrainingLoop::guarded_step(const LoadedBatch& batch,
                                                      std::span<SliceResult> results) {
  Guard& guard = run_.safeguards.guard();
  const std::int64_t steps = course_.steps;
  const double lr = run_.setup.schedule.lr_at(steps);
  StepOutcome outcome;
  if (batch.weight == 0) {
    // Counted, and nothing else: the same on every rank, since the weight comes from the order and the
    // labels.
    outcome.fault = StepFault::refused;
    if (run_.job.leader())
      run_.job.log.info("step {}: no sample of its batch weighs anything in the loss, so it changes nothing",
                        steps + 1);
    return outcome;
  }
  if (guard.skips(steps)) {
    outcome.fault = StepFault::refused;
    if (run_.job.leader()) run_.job.log.info("step {}: its batch is left out, as found before", steps + 1);
  } else {
    run_.safeguards.begin_step(steps, batch);
    if (run_.step.most_in_flight() > 1) {
      run_.step.enqueue(batch.slices, {batch.range.count, batch.weight}, steps, lr,
                        guard.skipped_before(steps));
      return outcome;  // settle_steps() will know
    }
    outcome = run_.step.run(batch.slices, {batch.range.count, batch.weight}, steps, lr, results,
                            guard.skipped_before(steps));
    if (outcome.fault == StepFault::none || outcome.fault == StepFault::overflow) return outcome;
    Safeguards::Verdict verdict =
        run_.safeguards.judge(outcome.fault, batch, [&] { return last_checkpoint(); });
    const bool back = verdict.policy == GuardPolicy::rollback;
    if (run_.job.leader())
      run_.job.log.warning("step {}: {}. {} ({} of at most {})", steps + 1, verdict.batch.reason,
                           back ? "The run goes back, and will leave this batch out"
                                : "The step was not applied, and its batch is left out",
                           guard.skipped().size() + 1, run_.config().guard.limit);
    guard.skip(std::move(verdict.batch));
    if (back) {
      roll_back();
      return std::nullopt;
    }
  }
  reporter_.tell_skipped(guard);
  return outcome;
}

void TrainingLoop::settle_steps() {
  std::size_t i = 0;
  for (const SettledStep& settled : run_.step.settle()) {
    const Enqueued& enqueued = enqueued_[i++];
    if (settled.outcome.fault == StepFault::overflow) continue;
    if (settled.outcome.fault != StepFault::none) stop_at(settled);
    outcomes_.push_back(settled.outcome);
    losses_.record(settled.step, settled.results);
    if (enqueued.timed) add_times(settled.times, enqueued.load, i > 1);
  }
  enqueued_.clear();
}

void TrainingLoop::stop_at(const SettledStep& settled) {
  const StepFault fault = settled.outcome.fault;
  const bool last = settled.step + 1 == course_.steps;
  course_.steps = settled.step;
  LoaderOptions loading = loader_options();
  loading.workers = 0;
  Loader loader(run_.setup.order, std::move(loading));
  const LoadedBatch& batch = loader.next();
  run_.safeguards.begin_step(course_.steps, batch);
  if (!last) run_.step.compute_again(batch.slices, {batch.range.count, batch.weight}, course_.steps);
  (void)run_.safeguards.judge(fault, batch, [&] { return last_checkpoint(); });
  throw Error(ExitCode::internal, "a step was not applied, and no policy says why to go on");
}

void TrainingLoop::roll_back() {
  // A job that was cut off must not go on from what its successor saved, nor cut that one's metrics.
  saves_.checkpoints().check_not_superseded();
  // What the steps since the checkpoint have told is void: they are taken again.
  losses_.flush();
  outcomes_.clear();
  const std::int64_t from = course_.steps;
  if (saves_.restore()) {
    files_.resume();
  } else {
    saves_.start_over();
    files_.begin_metrics_anew();
  }
  reporter_.tell_rollback(from);
}

void TrainingLoop::refuse_untrained() {
  // Alike on every rank, as what was left out is.
  const std::int64_t steps = course_.steps;
  if (steps == 0 || run_.safeguards.guard().skipped_before(steps) < steps) return;
  reporter_.note_divergence();
  throw_on_all(
      run_.job.comm,
      DivergenceError(fmt::format(
          "the batch of every step was left out ({}): nothing was trained, and no weights are written. "
          "The log tells why each was; lower optimizer.lr, or look at the values of the data",
          counted(steps, "step"))));
}

void TrainingLoop::check_replicas() {
  const std::string repaired = run_.safeguards.check_replicas(course_.steps, run_.finished());
  if (!repaired.empty()) reporter_.tell_repaired(repaired);
}

}  // namespace lockstep
