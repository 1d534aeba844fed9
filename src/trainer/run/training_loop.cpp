// What a training run does and says at the end of an epoch.

#include <fmt/format.h>

#include "trainer/run/training_run.h"

namespace lockstep {

void TrainingRun::print(const std::string& line) {
  if (progress_) progress_->result(line);
}

void TrainingRun::add_epoch_sums(MetricsRecord& record, EpochLine& line) const {
  if (epoch_sums_.weight == 0) return;
  line.loss = epoch_sums_.loss / epoch_sums_.weight;
  record.add("loss", *line.loss);
  if (data_.info.classes == 0) return;
  line.accuracy = epoch_sums_.correct / epoch_sums_.weight;
  record.add("accuracy", *line.accuracy);
}

void TrainingRun::validate(MetricsRecord& record, EpochLine& line) {
  if (!data_.validation) return;
  const Evaluation result =
      evaluator_->run(data_.validation, data_.info.normalizer, step_->parameters(), config_.data.workers);
  line.validation_loss = result.loss;
  record.add("validation_loss", result.loss);
  if (!result.finite()) {
    record.add("validation_nonfinite", result.nonfinite);
    if (job_.leader())
      job_.log.warning("{}, validation: {}", line.head, nonfinite_text(result, *data_.validation));
    return;
  }
  if (data_.info.classes > 0) {
    line.validation_accuracy = result.accuracy;
    record.add("validation_accuracy", result.accuracy);
  }
  const std::string metric = best_metric_name(config_, data_.info.classes > 0);
  line.best = is_better(result, metric, best_);
  if (!line.best) return;
  best_ = best_of(result, metric, steps_);
  new_best_ = true;
}

void TrainingRun::end_epoch(std::int64_t epoch) {
  MetricsRecord record("epoch", steps_);
  record.add("epoch", epoch + 1);
  EpochLine line;
  line.head = fmt::format("epoch {}", epoch + 1);
  if (config_.train.epochs > 0) line.head += fmt::format("/{}", config_.train.epochs);
  add_epoch_sums(record, line);
  validate(record, line);
  epoch_sums_ = {};
  if (metrics_) metrics_->write(record);
  print(epoch_line_text(line));
}

void TrainingRun::end_within_epoch() {
  MetricsRecord record("end", steps_);
  EpochLine line;
  line.head = fmt::format("step {}/{}", steps_, end_steps_);
  add_epoch_sums(record, line);  // which a resume goes on with
  validate(record, line);
  if (metrics_) metrics_->write(record);
  print(epoch_line_text(line));
}

}  // namespace lockstep
