#include "trainer/run/training_loop.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>

#include "core/clock.h"
#include "core/error.h"
#include "trainer/evaluate/best.h"
#include "trainer/step/augmentation_choice.h"

namespace lockstep {
namespace {

constexpr std::int64_t most_recorded = 256;  // steps between two exchanges of losses, at most

std::int64_t recorded_steps(const Config& config) {
  return std::clamp<std::int64_t>(config.log.every_steps, 1, most_recorded);
}

}  // namespace

TrainingLoop::TrainingLoop(RunParts& parts, RunSaves& saves, RunFiles& files, RunStop& stop,
                           RunReporter& reporter, Communicator& shared)
    : run_(parts),
      course_(parts.course),
      saves_(saves),
      files_(files),
      stop_(stop),
      reporter_(reporter),
      control_(shared),
      losses_(parts.job.comm, parts.config().train.slices, recorded_steps(parts.config())),
      times_(most_recorded) {
  outcomes_.reserve(most_recorded);
  enqueued_.reserve(static_cast<std::size_t>(parts.step.most_in_flight()));
}

void TrainingLoop::run() {
  stop_.tell_way_on();
  if (run_.finished() || stop_.before_first_step()) return;
  while (!run_.finished() && course_.stopped_by == 0) train_from_here();
}

LoaderOptions TrainingLoop::loader_options() const {
  const Config& config = run_.config();
  LoaderOptions loading;
  loading.data = run_.data.sets().train;
  loading.fields = run_.fields.readers;
  loading.weights = run_.loss_weights;
  loading.mine = run_.step.slices();
  loading.position = run_.position().samples;
  loading.workers = config.data.workers;
  loading.cpus = run_.lanes.cpus;
  loading.recorder = run_.job.comm.recorder();
  return loading;
}

void TrainingLoop::train_from_here() {
  const Config& config = run_.config();
  TrainStep& step = run_.step;
  Timeline& timeline = run_.timeline;
  Loader loader(run_.setup.order, loader_options());
  std::vector<SliceResult> results(static_cast<std::size_t>(step.slices().size()));
  const std::int64_t samples = run_.setup.order.samples();
  while (!run_.finished()) {
    reporter_.tell_change();
    const std::int64_t waiting = timeline.enabled() ? timeline.now() : 0;
    const double asked = steady_seconds();
    const LoadedBatch& batch = loader.next();
    const double loaded = steady_seconds();
    control_.post(RunStop::word());
    if (timeline.enabled()) timeline.record(EventKind::load, 0, course_.steps, 0, waiting, timeline.now());
    const std::int64_t begin = timeline.enabled() ? timeline.now() : 0;
    const std::optional<StepOutcome> outcome = guarded_step(batch, results);
    const std::uint64_t stopped_by = control_.collect();
    const bool stop = stopped_by != 0;
    if (!outcome) return;  // whoever was asked to stop says so again in the next step
    if (timeline.enabled()) timeline.record(EventKind::step, 0, course_.steps, 0, begin, timeline.now());
    saves_.checkpoints().poll();
    stop_.tell_way_on();
    const bool ahead = step.most_in_flight() > 1;
    if (outcome->fault == StepFault::none && !ahead) {
      outcomes_.push_back(*outcome);
      losses_.record(course_.steps, results);
    }
    ++course_.steps;
    course_.samples_here += batch.range.count;
    const std::int64_t epoch = batch.range.epoch;
    const bool epoch_ends = batch.range.next() % samples == 0;
    const std::int64_t every = config.checkpoint.every_steps;
    const bool save = every > 0 ? course_.steps % every == 0 : epoch_ends;
    const bool first = course_.samples_here == batch.range.count;
    // The first is like no other.
    if (outcome->fault == StepFault::none && ahead)
      enqueued_.push_back({loaded - asked, !first});
    else if (!first && outcome->fault == StepFault::none)
      add_times(step.times(), loaded - asked);
    const auto under_way = static_cast<std::size_t>(step.in_flight());
    const bool full = losses_.room() == under_way;
    const bool losses_due = first || full || course_.steps % config.log.every_steps == 0 || epoch_ends ||
                            save || stop || run_.finished();
    if (losses_due || step.full() || run_.safeguards.replicas_due(course_.steps, run_.finished()))
      settle_steps();
    if (losses_due) flush_losses();
    reporter_.step_done();
    check_replicas();
    if (epoch_ends)
      end_epoch(epoch);
    else if (run_.finished())
      end_within_epoch();
    saves_.save_due(save, stop || run_.finished());
    if (stop && !run_.finished()) {
      course_.stopped_by = stopped_by;
      return;
    }
  }
}

void TrainingLoop::flush_losses() {
  std::size_t i = 0;
  const RankTimes mine = times_.summary();
  for (const StepSums& sums : losses_.flush(mine)) {
    const StepOutcome& outcome = outcomes_[i++];
    const double loss = sums.loss / sums.weight;
    if (!std::isfinite(loss)) {
      throw DivergenceError(fmt::format(
          "the loss of step {} is {}: the training diverged. Lower optimizer.lr, lengthen "
          "schedule.warmup_steps or set "
          "optimizer.clip_norm; the last checkpoint is that of step {}",
          sums.step, std::isnan(loss) ? "not a number" : "infinite", saves_.checkpoints().saved_step()));
    }
    course_.epoch_sums.loss += sums.loss;
    course_.epoch_sums.correct += sums.correct;
    course_.epoch_sums.weight += sums.weight;
    course_.epoch_sums.counted += sums.counted;
    course_.last_loss = loss;
    reporter_.tell_step(sums, loss, outcome);
  }
  outcomes_.clear();
  if (i > 0 && reporter_.tell_times(losses_.times())) times_.clear_window();
}

void TrainingLoop::add_times(StepTimes times, double load, bool behind) {
  times.load = load;
  if (!behind) times.step += load;
  times_.add(times);
}

void TrainingLoop::add_epoch_sums(MetricsRecord& record, EpochLine& line) const {
  const EpochSums& sums = course_.epoch_sums;
  if (sums.weight == 0) return;
  line.loss = sums.loss / sums.weight;
  record.add("loss", *line.loss);
  if (run_.data.info().classes == 0) return;
  line.accuracy = sums.correct / sums.counted;
  record.add("accuracy", *line.accuracy);
}

void TrainingLoop::validate(MetricsRecord& record, EpochLine& line) {
  const DataSets& data = run_.data.sets();
  if (!data.validation) return;
  const Evaluation result = run_.evaluator.run(data.validation, data.info.normalizer, run_.step.parameters(),
                                               run_.config().data.workers);
  line.validation_loss = result.loss;
  record.add("validation_loss", result.loss);
  if (!result.finite()) {
    record.add("validation_nonfinite", result.nonfinite);
    if (run_.job.leader())
      run_.job.log.warning("{}, validation: {}", line.head, nonfinite_text(result, *data.validation));
    return;
  }
  if (data.info.classes > 0) {
    line.validation_accuracy = result.accuracy;
    record.add("validation_accuracy", result.accuracy);
  }
  const std::string metric = best_metric_name(run_.config(), data.info.classes > 0);
  line.best = is_better(result, metric, course_.best);
  if (!line.best) return;
  course_.best = best_of(result, metric, course_.steps);
  course_.new_best = true;
}

void TrainingLoop::end_epoch(std::int64_t epoch) {
  MetricsRecord record("epoch", course_.steps);
  record.add("epoch", epoch + 1);
  EpochLine line;
  line.head = fmt::format("epoch {}", epoch + 1);
  if (run_.config().train.epochs > 0) line.head += fmt::format("/{}", run_.config().train.epochs);
  add_epoch_sums(record, line);
  validate(record, line);
  course_.epoch_sums = {};
  reporter_.tell_epoch(record, line);
}

void TrainingLoop::end_within_epoch() {
  MetricsRecord record("end", course_.steps);
  EpochLine line;
  line.head = fmt::format("step {}/{}", course_.steps, run_.setup.end_steps);
  add_epoch_sums(record, line);  // which a resume goes on with
  validate(record, line);
  reporter_.tell_epoch(record, line);
}

}  // namespace lockstep
