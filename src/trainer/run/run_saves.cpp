#include "trainer/run/run_saves.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <limits>

#include "core/error.h"
#include "core/flight_recorder.h"
#include "core/numerics/finite.h"
#include "trainer/config/config_table.h"
#include "trainer/config/schedule_changes.h"
#include "trainer/evaluate/best.h"
#include "trainer/step/flat_position.h"
#include "trainer/step/model_state.h"

namespace lockstep {

RunSaves::RunSaves(RunParts& parts)
    : run_(parts),
      checkpoints_(parts.job.comm, parts.job.log, parts.step, *parts.lanes.pool, parts.directory.path(),
                   RunCheckpointsOptions{parts.config().checkpoint.async, parts.config().checkpoint.keep,
                                         parts.lanes.cpus}) {}

std::function<void()> RunSaves::while_mine() const {
  return [this] { checkpoints_.require_mine(); };
}

RunState RunSaves::state() const {
  const Config& config = run_.config();
  const RunCourse& course = run_.course;
  const DataPosition position = run_.position();
  RunState state;
  state.generation = checkpoints_.generation();
  state.step = course.steps;
  state.position = position.samples;
  state.epoch = position.epoch;
  state.slices = config.train.slices;
  state.horizon = config_at(config, course.steps).schedule.steps;
  state.best = course.best;
  if (course.best.step >= 0) state.best.name = best_metric_name(config, run_.data.info().classes > 0);
  state.config = resolved_ini(config);
  state.fingerprint = run_.fingerprint;
  state.reduction = config.train.reduction;
  state.any_fast = course.any_fast;
  state.epoch_sums = course.epoch_sums;
  state.loss_scale = run_.step.loss_scale();
  state.preprocessing_sha256 = run_.data.preprocessing_sha256();
  state.data = run_.data.record();
  state.guard = run_.safeguards.guard().state();
  state.plans = {run_.step.executor().plan_choice(), run_.evaluator.executor().plan_choice(),
                 config.train.eval_batch / config.train.slices};
  return state;
}

void RunSaves::check_parameters() {
  const std::span<const float> parameters = run_.step.parameters();
  agree_on_error(run_.job.comm, [&] {
    if (all_finite(parameters)) return;
    const auto at =
        find_element(run_.step.executor(), parameters, [](float value) { return !std::isfinite(value); });
    throw DivergenceError(fmt::format(
        "after step {} {} is {}: an update has overflowed, and nothing more is saved. Lower optimizer.lr, "
        "lengthen "
        "schedule.warmup_steps or set optimizer.clip_norm; the last checkpoint is that of step {}",
        run_.course.steps, at ? at->text() : "a parameter",
        at && std::isnan(at->value) ? "not a number" : "infinite", checkpoints_.saved_step()));
  });
}

bool RunSaves::save_checkpoint(bool wait) {
  const FlightScope scope(run_.job.comm.recorder(), Activity::save);
  Timeline& timeline = run_.timeline;
  check_parameters();
  const std::int64_t begin = timeline.enabled() ? timeline.now() : 0;
  const bool saved = checkpoints_.save(state(), wait);
  if (timeline.enabled()) timeline.record(EventKind::save, 0, run_.course.steps, 0, begin, timeline.now());
  return saved;
}

void RunSaves::hold_best() {
  run_.course.new_best = false;
  const std::span<const float> weights = run_.step.parameters();
  if (!held_best_) held_best_.emplace();
  held_best_->state = state();
  held_best_->weights.assign(weights.begin(), weights.end());
}

void RunSaves::save_best() {
  if (!run_.course.new_best && !held_best_) return;
  const FlightScope scope(run_.job.comm.recorder(), Activity::save);
  if (run_.course.new_best)
    checkpoints_.save_best(state());
  else
    checkpoints_.save_best_of(held_best_->state, held_best_->weights);
  run_.course.new_best = false;
  held_best_.reset();
}

void RunSaves::save_due(bool due, bool must) {
  const Config::Checkpoint& options = run_.config().checkpoint;
  if (must || options.every_steps > 0 || !options.async) {
    // The best first: no checkpoint names weights of which there is no copy.
    save_best();
    if (due || must) save_checkpoint(must);
    return;
  }
  if (!due) return;
  if (checkpoints_.busy()) {
    if (run_.course.new_best) hold_best();
  } else if (run_.course.new_best) {
    const FlightScope scope(run_.job.comm.recorder(), Activity::save);
    Timeline& timeline = run_.timeline;
    check_parameters();
    const std::int64_t begin = timeline.enabled() ? timeline.now() : 0;
    const bool begun = checkpoints_.save_with_best(state());
    if (timeline.enabled()) timeline.record(EventKind::save, 0, run_.course.steps, 0, begin, timeline.now());
    if (begun) {
      run_.course.new_best = false;
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

bool RunSaves::restore() {
  const FlightScope scope(run_.job.comm.recorder(), Activity::load_data);
  const Config& config = run_.config();
  const std::optional<RunState> state =
      checkpoints_.restore({config.train.slices, run_.fingerprint, config.run.allow_numeric_change,
                            config.run.allow_slices_change});
  if (!state) return false;
  RunCourse& course = run_.course;
  course.steps = state->step;
  course.best = state->best;
  course.new_best = false;
  held_best_.reset();
  course.any_fast = state->any_fast || config.train.reduction == "fast";
  course.epoch_sums = state->epoch_sums;
  report_once(run_.job.comm, [&] {
    check_is_of_this_run(*state);
    run_.data.check(*state);
    if (state->loss_scale) run_.step.set_loss_scale(*state->loss_scale);
    run_.safeguards.guard().restore(state->guard);
  });
  return true;
}

void RunSaves::check_is_of_this_run(const RunState& state) const {
  const Config& config = run_.config();
  const Config saved = make_config(parse_config_text(state.config, "the config of the checkpoint"));
  const auto value = [](const Config& of, const std::string& key) { return find_binding(key)->get(of); };
  for (const std::string& key : changed_keys(saved, config)) {
    if (key == "run.dir" || key == "train.slices")
      continue;  // the one changes no bit, the other is asked for
    throw ConfigError(
        fmt::format("{} is \"{}\" in '{}', but the checkpoint of step {} was saved with \"{}\": one of the "
                    "two was edited, or is of "
                    "another job; put the right value into that file, or start anew with --overwrite",
                    key, value(config, key), run_.directory.config(), state.step, value(saved, key)));
  }
  // Which rates the steps so far were taken with; later ones may change.
  const auto taken = [&](const Config& of) {
    std::vector<ScheduleChange> changes = changes_of(of);
    std::erase_if(changes, [&](const ScheduleChange& c) { return c.from >= state.step; });
    return changes_text(changes);
  };
  if (taken(saved) != taken(config))
    throw ConfigError(fmt::format(
        "schedule.changes is \"{}\" in '{}', but the steps of the newest checkpoint, {}, were taken "
        "with \"{}\": put the right list into that file, or move that checkpoint away to go on "
        "from an older one",
        config.schedule.changes, run_.directory.config(), state.step, saved.schedule.changes));
  const std::int64_t samples = run_.setup.order.samples();
  const auto position = data_position(state.step, samples, config.train.global_batch);
  if (!position || DataPosition{state.position, state.epoch} != *position)
    throw InputError(fmt::format(
        "{}: the checkpoint of step {} stands at data position {} in epoch {}, and with {} "
        "samples in batches of {} that "
        "step stands at {}: the training set has changed, or the checkpoint is damaged; move "
        "that checkpoint away to go "
        "on from an older one",
        run_.directory.checkpoints(), state.step, state.position, state.epoch, samples,
        config.train.global_batch, position ? position->samples : std::numeric_limits<std::int64_t>::max()));
}

void RunSaves::start_over() {
  RunCourse& course = run_.course;
  course.steps = 0;
  course.best = {};
  course.new_best = false;
  held_best_.reset();
  course.epoch_sums = {};
  run_.safeguards.guard().restore({});
  TrainStep& step = run_.step;
  step.set_loss_scale({});
  initialise_model(run_.setup.graph, step.executor(), run_.config().run.seed, step.writable_parameters());
  Optimizer& optimizer = step.writable_optimizer();
  for (std::size_t slot = 0; slot < optimizer.state_names().size(); ++slot)
    for (const Range& range : optimizer.shard()) {
      const std::span<float> state = optimizer.state(slot, range);
      std::fill(state.begin(), state.end(), 0.0f);
    }
}

}  // namespace lockstep
