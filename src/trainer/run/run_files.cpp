// What a run reads from its directory and writes there.

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fmt/format.h>
#include <iostream>
#include <limits>

#include "core/counted.h"
#include "core/digest.h"
#include "core/error.h"
#include "core/file.h"
#include "core/flight_recorder.h"
#include "core/numerics/finite.h"
#include "core/printable.h"
#include "data/readers/check_values.h"
#include "trainer/config/config_table.h"
#include "trainer/evaluate/evaluation_report.h"
#include "trainer/run/plan_report.h"
#include "trainer/run/training_run.h"
#include "trainer/step/flat_position.h"
#include "trainer/step/model_state.h"
#include "watch/watchdog.h"

namespace lockstep {

void TrainingRun::open_run_directory() {
  const FlightScope scope(job_.comm.recorder(), Activity::save);
  agree_on_error(job_.comm, [&] {
    if (!job_.leader()) return;
    const auto mode = config_.run.resume      ? RunDirectoryMode::resume
                      : config_.run.overwrite ? RunDirectoryMode::overwrite
                                              : RunDirectoryMode::fresh;
    lease_ = std::make_unique<Lease>(directory_.path(), job_.log, lanes_.cpus);
    lease_->await(config_.run.take_over);
    directory_ = RunDirectory::prepare(config_.run.dir, mode, [&] {
      lease_->take();
      if (job_.watchdog != nullptr) job_.watchdog->set_farewell(lease_->giving_back());
    });
  });
  checkpoints_ = std::make_unique<RunCheckpoints>(
      job_.comm, job_.log, *step_, *lanes_.pool, directory_.path(),
      RunCheckpointsOptions{config_.checkpoint.async, config_.checkpoint.keep, lanes_.cpus});
  if (!config_.run.resume) (void)checkpoints_->claim();
}

std::function<void()> TrainingRun::while_mine() const {
  return [this] { checkpoints_->require_mine(); };
}

void TrainingRun::start() {
  initialise_model(*graph_, step_->executor(), config_.run.seed, step_->writable_parameters());
  any_fast_ = config_.train.reduction == "fast";
  std::string described;
  agree_on_error(job_.comm, [&] {
    if (!job_.leader()) return;
    const std::string description = data_.info.to_json();
    described = sha256_hex(description);
    write_file_atomic(directory_.preprocessing(), description, while_mine());
    write_data_record();
    write_file_atomic(directory_.config(), resolved_ini(config_), while_mine());
    metrics_ = std::make_unique<MetricsFile>(
        MetricsFile::create(directory_.metrics(), on_lost_metrics(), while_mine()));
  });
  preprocessing_sha256_ = job_.comm.broadcast_text(described, 0);
}

bool TrainingRun::restore_newest() {
  const FlightScope scope(job_.comm.recorder(), Activity::load_data);
  const std::optional<RunState> state =
      checkpoints_->restore({config_.train.slices, fingerprint_, config_.run.allow_numeric_change,
                             config_.run.allow_slices_change});
  if (!state) return false;
  steps_ = state->step;
  best_ = state->best;
  new_best_ = false;
  held_best_.reset();
  any_fast_ = state->any_fast || config_.train.reduction == "fast";
  epoch_sums_ = state->epoch_sums;
  report_once(job_.comm, [&] {
    check_is_of_this_run(*state);
    check_data(*state);
    if (!state->preprocessing_sha256.empty() && state->preprocessing_sha256 != preprocessing_sha256_)
      throw InputError(
          fmt::format("'{}' is not the file that this run was started with, as the checkpoint of step {} "
                      "tells: it was edited, "
                      "damaged or replaced; put the old one back, or start anew with --overwrite",
                      directory_.preprocessing(), steps_));
    if (state->loss_scale) step_->set_loss_scale(*state->loss_scale);
    safeguards_->guard().restore(state->guard);
  });
  return true;
}

void TrainingRun::check_is_of_this_run(const RunState& state) const {
  const Config saved = make_config(parse_config_text(state.config, "the config of the checkpoint"));
  const auto value = [](const Config& config, const std::string& key) {
    return find_binding(key)->get(config);
  };
  for (const std::string& key : changed_keys(saved, config_)) {
    if (key == "run.dir" || key == "train.slices")
      continue;  // the one changes no bit, the other is asked for
    throw ConfigError(
        fmt::format("{} is \"{}\" in '{}', but the checkpoint of step {} was saved with \"{}\": one of the "
                    "two was edited, or is of "
                    "another job; put the right value into that file, or start anew with --overwrite",
                    key, value(config_, key), directory_.config(), state.step, value(saved, key)));
  }
  // Which rates the steps so far were taken with; later ones may change.
  const auto taken = [&](const Config& config) {
    std::vector<ScheduleChange> changes = changes_of(config);
    std::erase_if(changes, [&](const ScheduleChange& c) { return c.from >= state.step; });
    return changes_text(changes);
  };
  if (taken(saved) != taken(config_))
    throw ConfigError(fmt::format(
        "schedule.changes is \"{}\" in '{}', but the steps of the newest checkpoint, {}, were taken "
        "with \"{}\": put the right list into that file, or move that checkpoint away to go on "
        "from an older one",
        config_.schedule.changes, directory_.config(), state.step, saved.schedule.changes));
  const std::int64_t samples = order_->samples();
  const std::optional<DataPosition> position = data_position(state.step, samples, config_.train.global_batch);
  if (!position || DataPosition{state.position, state.epoch} != *position)
    throw InputError(fmt::format(
        "{}: the checkpoint of step {} stands at data position {} in epoch {}, and with {} "
        "samples in batches of {} that "
        "step stands at {}: the training set has changed, or the checkpoint is damaged; move "
        "that checkpoint away to go "
        "on from an older one",
        directory_.checkpoints(), state.step, state.position, state.epoch, samples,
        config_.train.global_batch, position ? position->samples : std::numeric_limits<std::int64_t>::max()));
}

void TrainingRun::resume() {
  std::vector<std::string> remarks;
  const auto restore = [&] {
    const bool restored = restore_newest();
    agree_on_error(job_.comm, [&] {
      if (!restored)
        throw InputError(
            fmt::format("{}: there is no whole checkpoint to resume from; start again with --overwrite",
                        directory_.checkpoints()));
    });
    remarks = change_schedule();
  };
  restore();
  // A start with nothing to train takes the run from nobody: a job that was stopped may still be at it.
  if (!finished() && checkpoints_->claim()) restore();
  if (job_.leader()) {
    for (const std::string& remark : remarks) job_.log.warning("{}", remark);
    const std::string bound = config_.train.epochs > 0 && natural_end_ == end_steps_
                                  ? fmt::format("train.epochs, now {},", config_.train.epochs)
                                  : fmt::format("train.steps, now {},", config_.train.steps);
    if (steps_ > end_steps_)
      job_.log.warning(
          "the run has taken {}, more than the {} that are asked for now: nothing is trained, and its "
          "config stays as it was; {} must be higher to go on",
          counted(steps_, "step"), end_steps_, bound);
    else if (finished())
      job_.log.info("the run has taken all of its {}: nothing is left to train; {} must be higher to go on",
                    counted(steps_, "step"), bound);
  }
  continue_files();
}

void TrainingRun::continue_files() {
  agree_on_error(job_.comm, [&] {
    if (!job_.leader()) return;
    directory_.remove_temporaries();
    // A full disk need not stop what changes nothing.
    const std::string config = resolved_ini(config_);
    if (!finished() && read_file(directory_.config()) != config)
      write_file_atomic(directory_.config(), config, while_mine());
    write_data_record();
    metrics_ = std::make_unique<MetricsFile>(
        finished() ? MetricsFile::add_to(directory_.metrics(), on_lost_metrics(), while_mine())
                   : MetricsFile::resume(directory_.metrics(), steps_, on_lost_metrics(), while_mine()));
    if (!changed_data_.empty())
      metrics_->write(MetricsRecord("data_change", steps_).add("what", changed_data_));
    if (finished()) return;
    checkpoints_->require_mine();
    // The weights of an earlier end would pass for this run's until it ends; the checkpoint has them all the
    // same.
    for (const std::string& file : {directory_.model(), directory_.best(), directory_.test_report()}) {
      std::error_code error;
      std::filesystem::remove(file, error);
      if (error) throw InputError(fmt::format("cannot remove '{}': {}", file, error.message()));
    }
  });
}

MetricsFile::OnLoss TrainingRun::on_lost_metrics() const {
  return [this](const std::string& cause) {
    job_.log.warning("step {}: a line of metrics is lost, the training goes on: {}", steps_, cause);
  };
}

RunState TrainingRun::state() const {
  const DataPosition position = this->position();
  RunState state;
  state.generation = checkpoints_->generation();
  state.step = steps_;
  state.position = position.samples;
  state.epoch = position.epoch;
  state.slices = config_.train.slices;
  state.horizon = config_at(config_, steps_).schedule.steps;
  state.best = best_;
  if (best_.step >= 0) state.best.name = best_metric_name(config_, data_.info.classes > 0);
  state.config = resolved_ini(config_);
  state.fingerprint = fingerprint_;
  state.reduction = config_.train.reduction;
  state.any_fast = any_fast_;
  state.epoch_sums = epoch_sums_;
  state.loss_scale = step_->loss_scale();
  state.preprocessing_sha256 = preprocessing_sha256_;
  state.data = data_record_;
  state.guard = safeguards_->guard().state();
  state.plans = {step_->executor().plan_choice(), evaluator_->executor().plan_choice(),
                 config_.train.eval_batch / config_.train.slices};
  return state;
}

DataPosition TrainingRun::position() const {
  const auto position = data_position(steps_, order_->samples(), config_.train.global_batch);
  require(position.has_value(), "the data position is beyond int64");
  return *position;
}

void TrainingRun::check_parameters() {
  const std::span<const float> parameters = step_->parameters();
  agree_on_error(job_.comm, [&] {
    if (all_finite(parameters)) return;
    const auto at =
        find_element(step_->executor(), parameters, [](float value) { return !std::isfinite(value); });
    throw DivergenceError(fmt::format(
        "after step {} {} is {}: an update has overflowed, and nothing more is saved. Lower optimizer.lr, "
        "lengthen "
        "schedule.warmup_steps or set optimizer.clip_norm; the last checkpoint is that of step {}",
        steps_, at ? at->text() : "a parameter", at && std::isnan(at->value) ? "not a number" : "infinite",
        checkpoints_->saved_step()));
  });
}

bool TrainingRun::save_checkpoint(bool wait) {
  const FlightScope scope(job_.comm.recorder(), Activity::save);
  check_parameters();
  const std::int64_t begin = timeline_.enabled() ? timeline_.now() : 0;
  const bool saved = checkpoints_->save(state(), wait);
  if (timeline_.enabled()) timeline_.record(EventKind::save, 0, steps_, 0, begin, timeline_.now());
  return saved;
}

void TrainingRun::write_model(const std::string& path) {
  const FlightScope scope(job_.comm.recorder(), Activity::save);
  agree_on_error(job_.comm, [&] {
    if (!job_.leader()) return;
    const std::vector<PlainTensor> model = export_model(step_->executor(), step_->parameters());
    const std::vector<TensorView> views = views_of(model);
    write_safetensors(path, views, with_digest(model_metadata(*graph_, steps_, any_fast_), views),
                      while_mine());
  });
}

void TrainingRun::tell_of_data() const {
  for (const std::string& text : warnings_of_training(*data_.train, data_.info)) job_.log.warning("{}", text);
  if (const std::int64_t samples = data_.train->size(); config_.data.limit > samples)
    job_.log.warning("data.limit = {} has no effect: there {} to train on", config_.data.limit,
                     samples == 1 ? "is 1 sample" : fmt::format("are {} samples", samples));
  for (const auto& set : {data_.validation, data_.test})
    if (set)
      for (const std::string& text : warnings_of_inputs(*set, data_.info)) job_.log.warning("{}", text);
  if (data_.info.normalizer.scales_targets())
    std::cout << "targets are scaled: losses are of scaled targets, predictions in the units of the data\n"
              << std::flush;
}

void TrainingRun::note_divergence() noexcept {
  if (!metrics_) return;
  try {
    metrics_->write(MetricsRecord("diverged", steps_));
  } catch (const std::exception& e) {
    job_.log.warning("{}", e.what());
  }
}

int TrainingRun::report_test() {
  const Evaluation result =
      evaluator_->run(data_.test, data_.info.normalizer, step_->parameters(), config_.data.workers);
  const auto code = result.finite() ? ExitCode::done : ExitCode::diverged;
  if (!job_.leader()) return static_cast<int>(code);
  MetricsRecord record("test", steps_);
  record.add("samples", result.samples).add("loss", result.loss);
  if (!result.finite()) {
    record.add("nonfinite", result.nonfinite);
    job_.log.error("test: {}: the weights are saved, and there are no scores",
                   nonfinite_text(result, *data_.test));
  } else if (data_.info.classes > 0) {
    record.add("accuracy", result.accuracy);
  } else {
    const TargetScore score = mean_of(result.targets);
    record.add("mae", score.mae).add("rmse", score.rmse).add("r2", score.r2);
  }
  metrics_->write(record);
  if (!result.finite()) return static_cast<int>(code);
  write_test_report(result);
  std::cout << evaluation_text(result, data_.info, "test", printable(directory_.test_report(), 200))
            << std::flush;
  return static_cast<int>(code);
}

void TrainingRun::write_test_report(const Evaluation& result) {
  try {
    const auto weights = weights_of_run(directory_.model());
    const std::string digest = weights ? TensorParts(*weights).digest() : "";
    write_file_atomic(directory_.test_report(),
                      evaluation_json(result, data_.info,
                                      {directory_.path(), "last", digest, "test", data_.test->describe()}),
                      while_mine());
  } catch (const InputError& e) {
    job_.log.warning("the report of the test is not written, all else is: {}", e.what());
  }
}

void TrainingRun::write_best() {
  const FlightScope scope(job_.comm.recorder(), Activity::save);
  agree_on_error(job_.comm, [&] {
    if (job_.leader() && best_.step < 0 && data_.validation)
      job_.log.warning("no validation gave a finite loss: there are no best weights");
    if (!job_.leader() || best_.step < 0) return;
    std::vector<std::string> passed_over;
    const auto best = checkpoints_->store().find_best(best_.step, passed_over);
    for (const std::string& reason : passed_over) job_.log.warning("{}", reason);
    if (best) {
      load_checkpoint(best->path).model.write(directory_.best(), while_mine());
      const std::string metric = best_metric_name(config_, data_.info.classes > 0);
      print(fmt::format("best weights: of step {}", best->step) +
            (best->step == best_.step ? ", validation " + best_text(best_, metric) : ""));
    } else {
      job_.log.warning(
          "of the best weights, those of step {}, there is no whole copy: best.safetensors is "
          "not written",
          best_.step);
    }
  });
}

}  // namespace lockstep
