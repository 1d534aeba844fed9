#include "trainer/run/training_run.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <fmt/format.h>
#include <iostream>

#include "comm/world.h"
#include "core/clock.h"
#include "core/counted.h"
#include "core/digest.h"
#include "core/error.h"
#include "core/file.h"
#include "core/flight_recorder.h"
#include "core/printable.h"
#include "core/text.h"
#include "data/loader.h"
#include "device/cpu_info.h"
#include "model/graph/freeze.h"
#include "optim/groups.h"
#include "trainer/config/config_checks.h"
#include "trainer/config/slices.h"
#include "trainer/run/memory_check.h"
#include "trainer/run/plan_report.h"
#include "trainer/run/preemption.h"
#include "trainer/step/augmentation_choice.h"

namespace lockstep {
namespace {

constexpr std::size_t timeline_capacity = std::size_t{1} << 18;
constexpr std::int64_t loss_log_capacity = 256;  // steps between two exchanges of losses, at most
constexpr int most_in_flight = 64;               // steps that a device may be ahead of what the host knows

/// preprocessing.json of the run: rank 0 reads it, everybody gets it.
std::string share_preprocessing(Communicator& comm, const RunDirectory& run) {
  std::string text;
  agree_on_error(comm, [&] {
    if (comm.rank() == 0) text = run.read_preprocessing();
  });
  return comm.broadcast_text(text, 0);
}

TrainStepOptions step_options(const Config& config) {
  TrainStepOptions options;
  options.seed = config.run.seed;
  options.slice_rows = config.train.global_batch / config.train.slices;
  options.clip_norm = config.optimizer.clip_norm;
  options.optimizer = config.optimizer;
  options.sync.reduction = config.train.reduction == "fast" ? Reduction::fast : Reduction::ordered;
  options.sync.overlap = config.train.overlap;
  options.sync.sharded = config.optimizer.sharded;
  options.sync.bucket_elements = std::max<std::int64_t>(
      1, static_cast<std::int64_t>(config.train.bucket_mb * 1024 * 1024 / sizeof(float)));
  options.sync.slices = config.train.slices;
  // A step that may be left out must be known as such before the next one.
  if (config.guard.nonfinite == "stop")
    options.in_flight = static_cast<int>(std::clamp<std::int64_t>(config.log.every_steps, 1, most_in_flight));
  return options;
}

EpochOrder training_order(const Dataset& train, const Config& config) {
  const auto shards = train.shards();
  if (shards.empty()) return {train.size(), config.train.global_batch, config.train.slices, config.run.seed};
  return {ShardWindows{{shards.begin(), shards.end()}, config.data.window}, config.train.global_batch,
          config.train.slices, config.run.seed};
}

/// "trained 20 steps in 1.5s, 120 in all"
std::string trained_text(std::int64_t steps, std::int64_t all, double seconds) {
  if (steps <= 0) return "no step was left to train";
  return fmt::format("trained {} in {}", counted(steps, "step"), human_duration(seconds)) +
         (steps == all ? "" : fmt::format(", {} in all", all));
}

/// An upper estimate of the shared memory of a rank: its subtree sums and its parameters, with room for
/// padding.
std::size_t window_bytes(const Graph& graph, std::int64_t slices, int ranks) {
  std::size_t subtrees = 1;
  for (int r = 0; r < ranks; ++r)
    subtrees = std::max(subtrees, maximal_subtrees(slices, slices_of_rank(slices, r, ranks)).size());
  std::int64_t elements = graph.parameter_count();
  for (const Statistic& s : graph.statistics) elements += s.shape.elements();
  return (subtrees + 1) * static_cast<std::size_t>(elements) * sizeof(float) * 21 / 20 +
         (std::size_t{1} << 20);
}

}  // namespace

TrainingRun::TrainingRun(Config config, Job& job)
    : config_(std::move(config)),
      job_(job),
      timeline_(config_.log.timeline ? timeline_capacity : 0),
      directory_(config_.run.dir),
      times_(loss_log_capacity) {
  Communicator& comm = job_.comm;
  const DeviceChoice choice = choose_device(config_, comm);
  if (job_.leader() && !choice.note.empty()) job_.log.info("{}", choice.note);
  if (job_.leader() && !choice.warning.empty()) job_.log.warning("{}", choice.warning);
  std::optional<DataInfo> stored;
  std::string doubt;
  std::vector<std::string> remarks;
  const std::string description = config_.run.resume ? share_preprocessing(comm, directory_) : "";
  preprocessing_sha256_ = sha256_hex(description);
  if (config_.run.resume) stored_data_record_ = share_data_record();
  agree_on_error(comm, [&] {
    if (config_.run.resume) stored = DataInfo::from_json(description, directory_.preprocessing());
  });
  open_data(stored ? &*stored : nullptr);
  // Before what may be refused: they tell why.
  if (job_.leader()) data_.notes.tell(job_.log);
  const bool old_slices = keeps_slices();
  agree_on_error(comm, [&] {
    const DataInfo& info = data_.info;
    check_augmentation(config_, info.sample_shape);
    graph_ = graph_for_data();
    config_.data.classes = info.classes;
    config_.train.slices = resolve_slices(config_, *graph_, choice.kind, data_.train->size());
    resolve_eval_batch(config_);
    order_ = std::make_unique<EpochOrder>(training_order(*data_.train, config_));
    natural_end_ =
        config_.train.epochs > 0 ? config_.train.epochs * order_->batches_per_epoch() : config_.train.steps;
    end_steps_ = config_.train.steps > 0 ? std::min(natural_end_, config_.train.steps) : natural_end_;
    resolve_horizon();
    check_enough_slices(config_, *graph_, comm.size());
    TrainStep::check(*graph_, config_.train.slices, comm.size());
    remarks = group_lines(config_.optimizer, *graph_);
    for (const std::string& line : freeze_lines(*graph_, config_.model.freeze)) remarks.push_back(line);
    doubt = norm_remark(config_, *graph_, data_.train->size(), old_slices);
    if (choice.kind == "cpu") {
      check_memory(*graph_, "train.global_batch", config_.train.global_batch, config_.train.slices);
      check_memory(*graph_, "train.eval_batch", config_.train.eval_batch, config_.train.slices);
      for (const auto& set : {data_.validation, data_.test})
        if (set)
          check_evaluation_memory(*graph_, config_.train.eval_batch, config_.train.slices, comm.size(),
                                  set->size());
    }
  });
  for (const std::string& line : remarks)
    if (job_.leader()) job_.log.info("{}", line);
  if (!doubt.empty() && job_.leader()) job_.log.warning("{}", doubt);
  bind_near(choice, config_);
  lanes_ = make_lanes(config_, comm);
  const World world = report_once(comm, [&] { return gather_world(comm, describe_rank(lanes_, choice)); });
  if (job_.leader()) std::cout << world.table() << std::endl;
  if (!lanes_.warning.empty()) job_.log.warning("{}", lanes_.warning);

  agree_on_error(job_.comm, [&] { device_ = open_device(choice, config_); });
  // What a device sums by itself needs no window of the host's; small messages of the ranks still go through
  // one.
  shared_ =
      job_.make_shared(device_.only_enqueues ? std::size_t{1} << 20
                                             : window_bytes(*graph_, config_.train.slices, comm.size()));
  if (job_.faults.device) job_.faults.device(device_);
  TrainStepOptions options = guarded_options(step_options(config_));
  options.device = device_;
  fields_ = training_fields(config_, *graph_, *data_.train, data_.info.normalizer, device_);
  options.transforms = fields_.transforms;
  step_ = std::make_unique<TrainStep>(*graph_, options, *shared_, *lanes_.pool, &timeline_);
  control_ = std::make_unique<StepControl>(*shared_);
  evaluator_ = std::make_unique<Evaluator>(*graph_, config_.train.eval_batch, config_.train.slices, comm,
                                           *lanes_.pool, lanes_.cpus, device_, stored_plans_.evaluation);
  if (job_.leader()) log_notes(device_, job_.log);
  fingerprint_ = numeric_fingerprint(step_->executor().fingerprint(), device_.fingerprint);
  const std::string difference = report_once(
      comm, [&] { return check_equal_fingerprints(comm, fingerprint_, config_.run.allow_numeric_change); });
  if (!difference.empty() && job_.leader()) job_.log.warning("{}", difference);
  losses_ = std::make_unique<LossLog>(
      comm, config_.train.slices, std::clamp<std::int64_t>(config_.log.every_steps, 1, loss_log_capacity));
  outcomes_.reserve(loss_log_capacity);
  enqueued_.reserve(most_in_flight);
  std::vector<std::string> hosts;
  for (const RankDescription& rank : world.ranks) hosts.push_back(rank.host);
  safeguards_ = std::make_unique<Safeguards>(Safeguards::Context{config_, *graph_, *order_, data_.train,
                                                                 fields_, std::move(hosts), comm,
                                                                 *lanes_.pool, *step_, job_.faults, device_});
  if (!config_.run.resume)
    agree_on_error(comm, [&] {
      for (const std::string& remark : schedule_remarks(config_, 0, end_steps_))
        if (job_.leader()) job_.log.warning("{}", remark);
    });
  if (config_.run.dry_run) return;
  open_run_directory();
  open_rank_log(world);
  if (config_.run.resume)
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

void TrainingRun::describe_plan() {
  if (!job_.leader()) return;
  tell_of_data();
  std::cout << plan_text(*graph_, config_, step_->executor(), step_->sync(), step_->optimizer(),
                         job_.comm.size(), *order_, end_steps_)
            << augmentation_text(config_, device_) << std::flush;
}

bool TrainingRun::finished() const {
  return steps_ >= end_steps_;
}

ProgressState TrainingRun::progress_state() const {
  const std::int64_t per_epoch = order_->batches_per_epoch(), before = std::max<std::int64_t>(steps_ - 1, 0);
  return {before / per_epoch + 1,
          config_.train.epochs,
          steps_,
          end_steps_,
          steps_ - before / per_epoch * per_epoch,
          per_epoch,
          samples_here_,
          last_loss_};
}

int TrainingRun::run() {
  const FlightScope scope(job_.comm.recorder(), Activity::train);
  if (job_.leader()) {
    progress_ = std::make_unique<Progress>(std::cerr, Progress::for_stderr());
    evaluator_->tell_progress(
        [this](std::int64_t done, std::int64_t all) { progress_->work("evaluation: sample", done, all); });
    std::cout << fmt::format("{}, {} per batch in {}, {}; the run lies in {}\n",
                             counted(data_.train->size(), "sample"), config_.train.global_batch,
                             counted(config_.train.slices, "slice"), counted(end_steps_, "step"),
                             printable(directory_.path(), 200))
              << std::flush;
    tell_of_data();
    if (any_fast_)
      job_.log.warning(
          "train.reduction = fast: the results depend on the number of ranks, and the run is marked so");
  }
  if (progress_) progress_->begin(progress_state());
  const double begin = steady_seconds();
  const std::int64_t first = steps_;
  try {
    train_epochs();
  } catch (const Error& e) {
    // Of a divergence all ranks know, and what was being saved is from before. Any other error that is not
    // agreed on is this rank's alone: it is told as such, and the others are ended.
    if (e.code() != ExitCode::diverged) throw;
    note_divergence();
    checkpoints_->wait();
    if (e.agreed()) throw;
    throw_on_all(job_.comm, DivergenceError(e.what()));
  }
  if (progress_) progress_->end();
  checkpoints_->wait();
  tell_way_on();
  checkpoints_->check_not_superseded();
  if (stopped_by_ != 0) return leave_preempted();
  refuse_untrained();
  if (job_.leader()) print(trained_text(steps_ - first, steps_, steady_seconds() - begin));
  write_model(directory_.model());
  write_best();
  const int code = data_.test ? report_test() : static_cast<int>(ExitCode::done);
  if (timeline_.enabled())
    agree_on_error(job_.comm, [&] { timeline_.write(directory_.timeline(job_.comm.rank())); });
  if (job_.leader())
    std::cout << fmt::format("the run lies in {}\n", printable(directory_.path(), 200)) << std::flush;
  return code;
}

void TrainingRun::train_epochs() {
  tell_way_on();
  if (finished() || stop_at_once()) return;
  while (!finished() && stopped_by_ == 0) train_from_here();
}

LoaderOptions TrainingRun::loader_options() const {
  LoaderOptions loading;
  loading.data = data_.train;
  loading.fields = fields_.readers;
  loading.mine = step_->slices();
  loading.position = position_;
  loading.workers = config_.data.workers;
  loading.cpus = lanes_.cpus;
  loading.recorder = job_.comm.recorder();
  return loading;
}

void TrainingRun::train_from_here() {
  Loader loader(*order_, loader_options());
  std::vector<SliceResult> results(static_cast<std::size_t>(step_->slices().size()));
  const std::int64_t samples = order_->samples();
  while (!finished()) {
    tell_change();
    const std::int64_t waiting = timeline_.enabled() ? timeline_.now() : 0;
    const double asked = steady_seconds();
    const LoadedBatch& batch = loader.next();
    const double loaded = steady_seconds();
    control_->post(stop_word());
    if (timeline_.enabled()) {
      timeline_.record(EventKind::load, 0, steps_, 0, waiting, timeline_.now());
    }
    const std::int64_t begin = timeline_.enabled() ? timeline_.now() : 0;
    const std::optional<StepOutcome> outcome = guarded_step(batch, schedule_->lr_at(steps_), results);
    const std::uint64_t stopped_by = control_->collect();
    const bool stop = stopped_by != 0;
    if (!outcome) return;  // whoever was asked to stop says so again in the next step
    if (timeline_.enabled()) timeline_.record(EventKind::step, 0, steps_, 0, begin, timeline_.now());
    checkpoints_->poll();
    tell_way_on();
    const bool ahead = step_->most_in_flight() > 1;
    if (outcome->fault == StepFault::none && !ahead) {
      outcomes_.push_back(*outcome);
      losses_->record(steps_, results);
    }
    ++steps_;
    position_ = batch.range.next();
    samples_here_ += batch.range.count;
    const std::int64_t epoch = batch.range.epoch;
    const bool epoch_ends = position_ % samples == 0;
    const std::int64_t every = config_.checkpoint.every_steps;
    const bool save = every > 0 ? steps_ % every == 0 : epoch_ends;
    const bool first = samples_here_ == batch.range.count;
    // The first is like no other.
    if (outcome->fault == StepFault::none && ahead)
      enqueued_.push_back({batch.range, loaded - asked, !first});
    else if (!first && outcome->fault == StepFault::none)
      add_times(step_->times(), loaded - asked);
    const auto under_way = static_cast<std::size_t>(step_->in_flight());
    const bool full = losses_->room() == under_way;
    const bool losses_due =
        first || full || steps_ % config_.log.every_steps == 0 || epoch_ends || save || stop || finished();
    if (losses_due || step_->full() || safeguards_->replicas_due(steps_, finished())) settle_steps();
    if (losses_due) flush_losses();
    if (progress_) progress_->update(progress_state());
    check_replicas();
    if (epoch_ends)
      end_epoch(epoch);
    else if (finished())
      end_within_epoch();
    save_due(save, stop || finished());
    if (stop && !finished()) {
      stopped_by_ = stopped_by;
      return;
    }
  }
}

void TrainingRun::flush_losses() {
  std::size_t i = 0;
  const RankTimes mine = times_.summary();
  for (const StepSums& sums : losses_->flush(mine)) {
    const StepOutcome& outcome = outcomes_[i++];
    const double loss = sums.loss / sums.weight;
    if (!std::isfinite(loss)) {
      throw DivergenceError(
          fmt::format("the loss of step {} is {}: the training diverged. Lower optimizer.lr, lengthen "
                      "schedule.warmup_steps or set "
                      "optimizer.clip_norm; the last checkpoint is that of step {}",
                      sums.step, std::isnan(loss) ? "not a number" : "infinite", checkpoints_->saved_step()));
    }
    epoch_sums_.loss += sums.loss;
    epoch_sums_.correct += sums.correct;
    epoch_sums_.weight += sums.weight;
    last_loss_ = loss;
    const std::int64_t done = sums.step + 1;
    if (!metrics_ || (done % config_.log.every_steps != 0 && done != end_steps_)) continue;
    MetricsRecord record("train", done);
    record.add("loss", loss);
    if (data_.info.classes > 0) record.add("accuracy", sums.correct / sums.weight);
    record.add("lr", outcome.lr);
    if (outcome.gradient_norm >= 0) record.add("gradient_norm", outcome.gradient_norm);
    if (progress_) record.add("samples_per_second", progress_->samples_per_second());
    metrics_->write(record);
  }
  outcomes_.clear();
  if (i > 0) report_times();
}

}  // namespace lockstep
