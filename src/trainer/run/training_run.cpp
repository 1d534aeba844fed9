#include "trainer/run/training_run.h"

#include <algorithm>
#include <exception>
#include <fmt/format.h>
#include <iostream>
#include <utility>
#include <vector>

#include "core/clock.h"
#include "core/counted.h"
#include "core/error.h"
#include "core/file.h"
#include "core/flight_recorder.h"
#include "core/printable.h"
#include "core/text.h"
#include "trainer/data/loss_weights.h"
#include "trainer/run/plan_choice.h"
#include "trainer/run/plan_report.h"
#include "trainer/step/augmentation_choice.h"
#include "trainer/step/model_state.h"
#include "watch/watchdog.h"

namespace lockstep {
namespace {

constexpr std::size_t timeline_capacity = std::size_t{1} << 18;

/// "trained 20 steps in 1.5s, 120 in all"
std::string trained_text(std::int64_t steps, std::int64_t all, double seconds) {
  if (steps <= 0) return "no step was left to train";
  return fmt::format("trained {} in {}", counted(steps, "step"), human_duration(seconds)) +
         (steps == all ? "" : fmt::format(", {} in all", all));
}

}  // namespace

TrainingRun::TrainingRun(Config config, Job& job)
    : given_(std::move(config)),
      job_(job),
      timeline_(given_.log.timeline ? timeline_capacity : 0),
      directory_(given_.run.dir) {
  const DeviceChoice choice = choose_device(given_, job_.comm);
  if (job_.leader() && !choice.note.empty()) job_.log.info("{}", choice.note);
  if (job_.leader() && !choice.warning.empty()) job_.log.warning("{}", choice.warning);
  data_.emplace(given_, job_, directory_);
  make_setup(choice);
  const World world = make_lanes_and_tell(choice);
  compile(choice);
  check_fingerprints();
  make_safeguards(world);
  if (!given_.run.resume)
    agree_on_error(job_.comm, [&] {
      for (const std::string& remark : schedule_remarks(setup_->config, 0, setup_->end_steps))
        if (job_.leader()) job_.log.warning("{}", remark);
    });
  if (given_.run.dry_run) return;
  parts_.emplace(RunParts{job_, *setup_, *data_, directory_, timeline_, lanes_, device_, *step_, *evaluator_,
                          *safeguards_, course_, fields_, loss_weights_, fingerprint_});
  open_run_directory();
  reporter_.emplace(job_, *setup_, directory_, course_, data_->info().classes > 0);
  files_.emplace(*parts_, *saves_, *reporter_);
  stop_.emplace(*parts_, *saves_);
  loop_.emplace(*parts_, *saves_, *files_, *stop_, *reporter_, *shared_);
  reporter_->open_rank_log(world, saves_->checkpoints().generation());
  if (given_.run.resume)
    resume();
  else
    start();
}

TrainingRun::~TrainingRun() {
  if (std::uncaught_exceptions() > 0) abandon("an error ends this rank");
}

void TrainingRun::abandon(const std::string& why) noexcept {
  // Before the evaluation and the checks, whose memory on the device could not be freed else.
  if (step_) step_->abandon(why);
}

bool TrainingRun::keeps_slices() {
  if (!given_.run.resume || !given_.run.allow_slices_change) return given_.run.resume;
  std::string text;
  agree_on_error(job_.comm, [&] {
    if (job_.leader()) text = read_file(directory_.config());
  });
  text = job_.comm.broadcast_text(text, 0);
  bool kept = true;
  agree_on_error(job_.comm, [&] {
    kept = make_config(parse_config_text(text, directory_.config())).train.slices == given_.train.slices;
  });
  return kept;
}

void TrainingRun::make_setup(const DeviceChoice& choice) {
  const RunPlace place{choice.kind, job_.comm.size(), job_.custom_graph, keeps_slices()};
  agree_on_error(job_.comm, [&] { setup_.emplace(set_up_run(given_, data_->sets(), place)); });
  if (!job_.leader()) return;
  for (const std::string& line : setup_->remarks) job_.log.info("{}", line);
  if (!setup_->doubt.empty()) job_.log.warning("{}", setup_->doubt);
}

World TrainingRun::make_lanes_and_tell(const DeviceChoice& choice) {
  bind_near(choice, setup_->config);
  lanes_ = make_lanes(setup_->config, job_.comm);
  World world =
      report_once(job_.comm, [&] { return gather_world(job_.comm, describe_rank(lanes_, choice)); });
  if (job_.leader()) std::cout << world.table() << std::endl;
  if (!lanes_.warning.empty()) job_.log.warning("{}", lanes_.warning);
  return world;
}

void TrainingRun::compile(const DeviceChoice& choice) {
  const Config& config = setup_->config;
  agree_on_error(job_.comm, [&] { device_ = open_device(choice, config); });
  // What a device sums by itself needs no window of the host's; small messages of the ranks still go through
  // one.
  shared_ = job_.make_shared(device_.only_enqueues
                                 ? std::size_t{1} << 20
                                 : window_bytes(setup_->graph, config.train.slices, job_.comm.size()));
  if (job_.faults.device) job_.faults.device(device_);
  TrainStepOptions options = step_options(config);
  options.device = device_;
  const Dataset& train = *data_->sets().train;
  fields_ = training_fields(config, setup_->graph, train, data_->info().normalizer, device_);
  agree_on_error(job_.comm, [&] { loss_weights_ = loss_weights(setup_->graph, train); });
  options.transforms = fields_.transforms;
  step_ =
      make_train_step(setup_->graph, guarded_options(std::move(options)), *shared_, *lanes_.pool, &timeline_);
  evaluator_ =
      std::make_unique<Evaluator>(setup_->graph, config.train.eval_batch, config.train.slices, job_.comm,
                                  *lanes_.pool, lanes_.cpus, device_, stored_plans_.evaluation);
  if (job_.leader()) log_notes(device_, job_.log);
}

TrainStepOptions TrainingRun::guarded_options(TrainStepOptions options) {
  const Config& config = setup_->config;
  // Plans that were picked anew could differ from those that the run began with.
  if (options.device.picks_plans && config.run.resume && !config.run.allow_numeric_change)
    stored_plans_ = stored_plan_choices(job_.comm, config.run.dir, config.train.slices,
                                        config.train.eval_batch / config.train.slices);
  options.plan_choice = stored_plans_.training;
  if (Safeguards::ask_before_update(config))
    options.before_update = [this](std::span<const SliceResult> results) {
      return safeguards_->before_update(results);
    };
  const FaultHooks& hooks = job_.faults;
  if (hooks.before_ready)
    options.before_ready = [this](Range range, std::span<const std::span<float>> roots) {
      job_.faults.before_ready(course_.steps, range, roots);
    };
  if (hooks.after_slice)
    options.after_slice = [this](std::int64_t slice, Range range, std::span<float> gradient) {
      job_.faults.after_slice(course_.steps, slice, range, gradient, false);
    };
  return options;
}

void TrainingRun::check_fingerprints() {
  fingerprint_ = numeric_fingerprint(step_->executor().fingerprint(), device_.fingerprint);
  const std::string difference = report_once(job_.comm, [&] {
    return check_equal_fingerprints(job_.comm, fingerprint_, given_.run.allow_numeric_change);
  });
  if (!difference.empty() && job_.leader()) job_.log.warning("{}", difference);
}

void TrainingRun::make_safeguards(const World& world) {
  std::vector<std::string> hosts;
  for (const RankDescription& rank : world.ranks) hosts.push_back(rank.host);
  safeguards_ = std::make_unique<Safeguards>(
      Safeguards::Context{setup_->config, setup_->graph, setup_->order, data_->sets().train, fields_,
                          std::move(hosts), job_.comm, *lanes_.pool, *step_, job_.faults, device_});
}

void TrainingRun::open_run_directory() {
  const FlightScope scope(job_.comm.recorder(), Activity::save);
  agree_on_error(job_.comm, [&] {
    if (!job_.leader()) return;
    const auto mode = given_.run.resume      ? RunDirectoryMode::resume
                      : given_.run.overwrite ? RunDirectoryMode::overwrite
                                             : RunDirectoryMode::fresh;
    lease_ = std::make_unique<Lease>(directory_.path(), job_.log, lanes_.cpus);
    lease_->await(given_.run.take_over);
    directory_ = RunDirectory::prepare(given_.run.dir, mode, [&] {
      lease_->take();
      if (job_.watchdog != nullptr) job_.watchdog->set_farewell(lease_->giving_back());
    });
  });
  saves_.emplace(*parts_);
  if (!given_.run.resume) (void)saves_->checkpoints().claim();
}

void TrainingRun::start() {
  initialise_model(setup_->graph, step_->executor(), given_.run.seed, step_->writable_parameters());
  course_.any_fast = given_.train.reduction == "fast";
  files_->begin();
}

std::vector<std::string> TrainingRun::restore() {
  const bool restored = saves_->restore();
  agree_on_error(job_.comm, [&] {
    if (!restored)
      throw InputError(
          fmt::format("{}: there is no whole checkpoint to resume from; start again with --overwrite",
                      directory_.checkpoints()));
  });
  std::vector<std::string> remarks;
  agree_on_error(job_.comm, [&] { remarks = change_schedule(*setup_, course_.steps); });
  return remarks;
}

void TrainingRun::resume() {
  std::vector<std::string> remarks = restore();
  // A start with nothing to train takes the run from nobody: a job that was stopped may still be at it.
  if (!parts_->finished() && saves_->checkpoints().claim()) remarks = restore();
  if (job_.leader()) {
    const std::int64_t steps = course_.steps, end = setup_->end_steps;
    const Config::Train& train = setup_->config.train;
    for (const std::string& remark : remarks) job_.log.warning("{}", remark);
    const std::string bound = train.epochs > 0 && setup_->natural_end == end
                                  ? fmt::format("train.epochs, now {},", train.epochs)
                                  : fmt::format("train.steps, now {},", train.steps);
    if (steps > end)
      job_.log.warning(
          "the run has taken {}, more than the {} that are asked for now: nothing is trained, and its "
          "config stays as it was; {} must be higher to go on",
          counted(steps, "step"), end, bound);
    else if (parts_->finished())
      job_.log.info("the run has taken all of its {}: nothing is left to train; {} must be higher to go on",
                    counted(steps, "step"), bound);
  }
  files_->resume();
}

void TrainingRun::describe_plan() {
  if (!job_.leader()) return;
  data_->tell();
  std::cout << plan_text(setup_->graph, setup_->config, step_->executor(), step_->sync(), step_->optimizer(),
                         job_.comm.size(), setup_->order, setup_->end_steps)
            << augmentation_text(setup_->config, device_) << std::flush;
}

void TrainingRun::tell_of_start() {
  if (!job_.leader()) return;
  const Config::Train& train = setup_->config.train;
  std::cout << fmt::format("{}, {} per batch in {}, {}; the run lies in {}\n",
                           counted(data_->sets().train->size(), "sample"), train.global_batch,
                           counted(train.slices, "slice"), counted(setup_->end_steps, "step"),
                           printable(directory_.path(), 200))
            << std::flush;
  data_->tell();
  if (course_.any_fast)
    job_.log.warning(
        "train.reduction = fast: the results depend on the number of ranks, and the run is marked so");
}

int TrainingRun::run() {
  const FlightScope scope(job_.comm.recorder(), Activity::train);
  reporter_->begin();
  if (job_.leader())
    evaluator_->tell_progress(
        [this](std::int64_t done, std::int64_t all) { reporter_->evaluated(done, all); });
  tell_of_start();
  reporter_->begin_steps();
  const double begin = steady_seconds();
  const std::int64_t first = course_.steps;
  RunCheckpoints& checkpoints = saves_->checkpoints();
  try {
    loop_->run();
  } catch (const Error& e) {
    // Of a divergence all ranks know, and what was being saved is from before. Any other error that is not
    // agreed on is this rank's alone: it is told as such, and the others are ended.
    if (e.code() != ExitCode::diverged) throw;
    reporter_->note_divergence();
    checkpoints.wait();
    if (e.agreed()) throw;
    throw_on_all(job_.comm, DivergenceError(e.what()));
  }
  reporter_->end();
  checkpoints.wait();
  stop_->tell_way_on();
  checkpoints.check_not_superseded();
  if (course_.stopped_by != 0) {
    const int code = stop_->leave();
    files_->write_timeline();
    return code;
  }
  loop_->refuse_untrained();
  if (job_.leader())
    reporter_->print(trained_text(course_.steps - first, course_.steps, steady_seconds() - begin));
  files_->write_model();
  files_->write_best();
  const int code = data_->sets().test ? files_->report_test() : static_cast<int>(ExitCode::done);
  files_->write_timeline();
  if (job_.leader())
    std::cout << fmt::format("the run lies in {}\n", printable(directory_.path(), 200)) << std::flush;
  return code;
}

}  // namespace lockstep
