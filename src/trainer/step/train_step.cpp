#include "trainer/step/train_step.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/clock.h"
#include "core/error.h"
#include "core/flight_recorder.h"
#include "core/numerics/finite.h"
#include "optim/device_optimizer.h"
#include "trainer/step/device_step.h"

namespace lockstep {
/// Hands what the executor has finished to the synchroniser.
class TrainStep::Listener final : public GradientListener {
 public:
  Listener(GradientSync& sync, const TrainStep& step) : sync_(sync), step_(step) {}
  void begin_step(std::span<const SliceResult> results) {
    results_ = results;
    losses_seen_.store(false, std::memory_order_relaxed);
  }
  void ready(Range range) override {
    // On a device the losses are not known yet: see StepInputs::spread_nonfinite_loss, or
    // device_gradient_is_finite().
    if (range.size() > 0 && step_.options_.watch_gradient && !step_.device_ && !losses_seen_.exchange(true))
      pass_on_loss(range);
    if (step_.options_.before_ready) step_.options_.before_ready(range, step_.roots_);
    sync_.ready(range);
  }
  void progress() override {
    if (step_.recorder_ != nullptr) step_.recorder_->tick();
    sync_.progress();
  }

 private:
  /// A range is final only when all slices of this rank have their losses. A loss that is not finite need not
  /// show in the gradient: here it is put in, and so all ranks hear of it without a message of its own.
  void pass_on_loss(Range range) {
    for (const SliceResult& result : results_)
      if (!std::isfinite(result.loss))
        step_.roots_[0][static_cast<std::size_t>(range.begin)] = std::numeric_limits<float>::quiet_NaN();
  }

  GradientSync& sync_;
  const TrainStep& step_;
  std::span<const SliceResult> results_;
  std::atomic<bool> losses_seen_{false};
};

/// Keeps the gradient of one slice.
class TrainStep::SliceListener final : public SliceGradientListener {
 public:
  explicit SliceListener(TrainStep& step) : step_(step) {}
  void slice_ready(std::int64_t slice, Range range, std::span<float> gradient) override {
    if (step_.options_.after_slice) step_.options_.after_slice(slice, range, gradient);
    if (slice == step_.kept_slice_)
      std::memcpy(step_.kept_.as<float>().data() + range.begin, gradient.data(), gradient.size_bytes());
  }

 private:
  TrainStep& step_;
};

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

/// How many steps may be under way at once. One that is to be seen in a timeline is waited for.
int steps_ahead(const TrainStepOptions& options, const Timeline* timeline) {
  const bool ahead = device_decides(options) && options.device.only_enqueues &&
                     (timeline == nullptr || !timeline->enabled());
  return ahead ? options.in_flight : 1;
}

/// Whether a step waits for nobody and nobody looks into it, so that all of it can be captured.
bool is_whole(const TrainStepOptions& options, int ranks, const Timeline* timeline) {
  return device_decides(options) && options.device.captures_steps && ranks == 1 && !options.after_slice &&
         (timeline == nullptr || !timeline->enabled());
}

GradientSyncOptions sync_options(const TrainStepOptions& options, int ranks) {
  GradientSyncOptions sync = options.sync;
  if (device_decides(options) && options.clip_norm > 0) {
    sync.block_values = true;  // the sums that clipping needs tell also what is not finite
    return sync;
  }
  sync.finite_marks = sync.finite_marks || sync_watches(options, ranks);
  return sync;
}

}  // namespace

TrainStep::TrainStep(const Graph& graph, const TrainStepOptions& options, Communicator& comm, LanePool& lanes,
                     Timeline* timeline)
    : options_(options),
      comm_(comm),
      lanes_(lanes),
      timeline_(timeline),
      recorder_(comm.recorder()),
      mine_(slices_of_rank(options.sync.slices, comm.rank(), comm.size())),
      device_decides_(device_decides(options)),
      most_in_flight_(steps_ahead(options, timeline)),
      whole_(is_whole(options, comm.size(), timeline)) {
  require(options.in_flight >= 1, "TrainStep: no room for a step in flight");
  check(graph, options.sync.slices, comm.size());
  const FlightScope compiling(recorder_, Activity::compile);
  ExecutorOptions executor_options;
  executor_options.slice_rows = options.slice_rows;
  executor_options.training = true;
  executor_options.slices = options.sync.slices;
  executor_options.mine = mine_;
  executor_options.plan_choice = options_.plan_choice;
  executor_options.classes = options_.classes;
  executor_options.transforms = options_.transforms;
  executor_options.places = most_in_flight_;
  executor_options.whole_step = whole_;
  executor_options.device_buffers = static_cast<bool>(options_.device.make_step);
  require(!executor_options.device_buffers || !options_.before_ready,
          "TrainStep: before_ready sees host memory, and the gradient lies on a device");
  executor_ = compile_on_all(options_.device, graph, executor_options, comm, lanes, timeline);
  const FlatLayout& layout = executor_->layout();
  sync_ = options_.device.make_sync(comm, layout.elements, sync_options(options, comm.size()), timeline);
  optimizer_ = std::make_unique<Optimizer>(options.optimizer, layout, sync_->shard());
  if (options_.device.make_step) {
    device_ = options_.device.make_step();
    device_->prepare(device_setup());
    mirror_ = HostBuffer(static_cast<std::size_t>(layout.elements) * sizeof(float));
    host_is_newer_ = scale_is_newer_ = true;
    of_blocks_.resize(static_cast<std::size_t>((layout.elements + block_elements - 1) / block_elements));
  }
  listener_ = std::make_unique<Listener>(*sync_, *this);
  slice_listener_ = std::make_unique<SliceListener>(*this);
  flags_.resize(static_cast<std::size_t>(comm.size()));
  const auto places = static_cast<std::size_t>(most_in_flight_);
  flights_.resize(places);
  settled_results_.resize(places * static_cast<std::size_t>(mine_.size()));
  settled_.reserve(places);
  require(sync_->subtrees() == executor_->schedule().roots,
          "the synchroniser and the schedule must agree on subtrees");
  for (std::size_t i = 0; i < sync_->subtrees().size(); ++i) roots_.push_back(sync_->slot(i));

  if (optimizer_->needs_norms()) {
    norm_sums_.assign(optimizer_->norms().sums(), 0.0);
    if (options.sync.sharded && comm.size() > 1)
      norm_gather_ = std::make_unique<BlockGather>(comm, optimizer_->norms().sums_in(sync_->shard()));
  }
  if (options.clip_norm <= 0 || device_decides_) return;
  const std::int64_t blocks = (layout.elements + block_elements - 1) / block_elements;
  squares_.assign(static_cast<std::size_t>(blocks), 0.0);
  if (options.sync.sharded && comm.size() > 1)  // else this rank holds every total
    block_gather_ = std::make_unique<BlockGather>(comm, sync_->shard());
}

void TrainStep::check(const Graph& graph, std::int64_t slices, int ranks) {
  const auto trained = [](const Parameter& parameter) { return parameter.trainable; };
  if (std::none_of(graph.parameters.begin(), graph.parameters.end(), trained))
    throw ConfigError("model: it has no parameters, so there is nothing to train; add a conv or dense layer");
  if (ranks > slices)
    throw ConfigError(
        "there are more ranks (" + std::to_string(ranks) + ") than slices (" + std::to_string(slices) +
        "): start fewer ranks, or give train.slices a multiple that divides train.global_batch");
}

TrainStep::~TrainStep() {
  leave_device();
}

void TrainStep::keep_slice(std::int64_t slice) {
  kept_slice_ = slice >= mine_.begin && slice < mine_.end ? slice : -1;
  if (kept_slice_ >= 0 && kept_.size() == 0)
    kept_ = HostBuffer(static_cast<std::size_t>(executor_->layout().elements) * sizeof(float));
}

bool TrainStep::everybody_has(bool good) {
  const std::byte mine{static_cast<unsigned char>(good ? 0 : 1)};
  comm_.all_gather({&mine, 1}, flags_);
  return std::all_of(flags_.begin(), flags_.end(), [](std::byte flag) { return flag == std::byte{0}; });
}

bool TrainStep::gradient_is_finite(std::span<const SliceResult> results) {
  if (device_) return device_gradient_is_finite(results);
  if (sync_watches(options_, comm_.size())) {
    double sum = 0;
    for (const double mark : sync_->finite_marks()) sum += mark;
    return std::isfinite(sum);
  }
  // Each rank looks at its own totals, and asks around.
  std::atomic<bool> finite{true};
  lanes_.run([&](int lane) {
    for (const TotalView& view : sync_->totals()) {
      const std::int64_t n = view.range.size(), lanes = lanes_.size();
      const std::int64_t from = n * lane / lanes, to = n * (lane + 1) / lanes;
      if (!all_finite({view.data + from, static_cast<std::size_t>(to - from)})) finite = false;
    }
  });
  return comm_.size() == 1 ? finite.load() : everybody_has(finite);
}

double TrainStep::gather_gradient_norm(double inverse_weight) {
  if (device_)
    device_->sum_squares(sync_->totals(), squares_);
  else
    lanes_.run([&](int lane) { optimizer_->sum_squares(sync_->totals(), squares_, lane, lanes_.size()); });
  if (block_gather_) block_gather_->run(squares_);
  return lockstep::gradient_norm(squares_, inverse_weight);
}

StepFault TrainStep::note_nonfinite() {
  // Decided on the totals, so all ranks skip alike.
  if (!options_.device.scales_loss || !scale_may_be_at_fault(loss_scale_, loss_scale_options_))
    return StepFault::nonfinite;
  loss_scale_ = next_loss_scale(loss_scale_, true, loss_scale_options_);
  return StepFault::overflow;
}

const LossScale& TrainStep::loss_scale() const {
  require(in_flight_ == 0, "TrainStep::loss_scale: steps were not settled");
  return loss_scale_;
}

void TrainStep::set_loss_scale(const LossScale& state) {
  require(in_flight_ == 0, "TrainStep::set_loss_scale: steps were not settled");
  loss_scale_ = state;
  scale_is_newer_ = true;
}

void TrainStep::throw_divergence(std::int64_t step, double norm) {
  throw DivergenceError("step " + std::to_string(step) + ": the gradient norm is " +
                        (std::isnan(norm) ? "not a number" : "infinite") +
                        "; the parameters were not changed by this step. Lower optimizer.lr or lengthen "
                        "schedule.warmup_steps");
}

UpdateScalars TrainStep::update_scalars(const BatchCount& count, std::int64_t step, double lr,
                                        std::int64_t skipped) const {
  UpdateScalars scalars;
  scalars.lr = lr;
  scalars.inverse_count = 1.0 / static_cast<double>(count.samples);
  scalars.inverse_weight = 1.0 / count.weight;
  scalars.step = step - skipped - loss_scale_.skipped;
  return scalars;
}

StepOutcome TrainStep::update(const BatchCount& count, std::int64_t step, double lr,
                              std::span<const SliceResult> results, std::int64_t skipped, double& normed) {
  const FlightScope scope(recorder_, Activity::optimizer);
  UpdateScalars scalars = update_scalars(count, step, lr, skipped);
  StepOutcome outcome;
  outcome.lr = lr;
  const bool watch = options_.watch_gradient || options_.device.scales_loss;
  if (watch && !gradient_is_finite(results)) outcome.fault = note_nonfinite();
  if (outcome.fault == StepFault::none && options_.before_update && !options_.before_update(results))
    outcome.fault = StepFault::refused;
  if (outcome.fault != StepFault::none) return outcome;
  if (options_.device.scales_loss) loss_scale_ = next_loss_scale(loss_scale_, false, loss_scale_options_);
  if (options_.clip_norm > 0) {
    outcome.gradient_norm = gather_gradient_norm(scalars.inverse_weight);
    if (!std::isfinite(outcome.gradient_norm)) throw_divergence(step, outcome.gradient_norm);
    scalars.clip_scale = clip_scale(outcome.gradient_norm, options_.clip_norm);
  }
  normed = steady_seconds();
  optimizer_->begin_step(scalars);
  if (device_) {
    device_->begin(0, device_scalars(*optimizer_, scalars, options_.optimizer, scalars.step));
    find_norms();
    update_device(DecisionUse::nothing);
    device_is_newer_ = true;
  } else {
    find_norms();
    lanes_.run([&](int lane) {
      optimizer_->update_share(sync_->totals(), sync_->parameters(), lane, lanes_.size());
    });
  }
  return outcome;
}

StepOutcome TrainStep::run(std::span<const Batch> batches, const BatchCount& count, std::int64_t step,
                           double lr, std::span<SliceResult> results, std::int64_t skipped) {
  require(in_flight_ == 0, "TrainStep::run: steps before it were not settled");
  if (!device_decides_) return run_with_host(batches, count, step, lr, results, skipped);
  enqueue_on_device(batches, count, step, lr, skipped);
  const SettledStep& settled = settle().front();
  std::copy(settled.results.begin(), settled.results.end(), results.begin());
  return settled.outcome;
}

void TrainStep::enqueue(std::span<const Batch> batches, const BatchCount& count, std::int64_t step, double lr,
                        std::int64_t skipped) {
  require(!full(), "TrainStep::enqueue: the steps in flight were not settled");
  if (device_decides_) {
    enqueue_on_device(batches, count, step, lr, skipped);
    return;
  }
  SettledStep settled;
  settled.step = step;
  settled.outcome = run_with_host(batches, count, step, lr, settled_results_, skipped);
  settled.results = settled_results_;
  settled.times = times_;
  settled_.assign(1, settled);
  in_flight_ = 1;
}

std::span<const SettledStep> TrainStep::settle() {
  if (device_decides_)
    settle_on_device();
  else if (in_flight_ == 0)
    settled_.clear();
  in_flight_ = 0;
  return settled_;
}

StepInputs TrainStep::step_inputs(std::span<const Batch> batches, std::int64_t step) {
  StepInputs inputs;
  inputs.seed = options_.seed;
  inputs.step = static_cast<std::uint64_t>(step);
  inputs.parameters = sync_->parameters();
  inputs.slices = batches;
  inputs.roots = roots_;
  inputs.listener = listener_.get();
  if (options_.device.scales_loss) inputs.loss_scale = loss_scale_.scale;
  if (options_.after_slice || kept_slice_ >= 0) inputs.slice_listener = slice_listener_.get();
  return inputs;
}

StepOutcome TrainStep::run_with_host(std::span<const Batch> batches, const BatchCount& count,
                                     std::int64_t step, double lr, std::span<SliceResult> results,
                                     std::int64_t skipped) {
  require(count.samples > 0 && count.weight > 0, "TrainStep: a batch without samples or weight");
  require(skipped >= 0 && skipped <= step, "TrainStep: more batches skipped than there were");
  const double entered = steady_seconds();
  if (device_) write_to_device();
  sync_->begin_step(step);
  StepInputs inputs = step_inputs(batches, step);
  inputs.results = results;
  listener_->begin_step(results);
  const double computing = steady_seconds();
  {
    const FlightScope scope(recorder_, Activity::compute);
    executor_->train(inputs);
  }
  const double computed = steady_seconds();
  sync_->finish();

  const std::int64_t begin = timeline_ != nullptr ? timeline_->now() : 0;
  double normed = computed;
  const StepOutcome outcome = update(count, step, lr, results, skipped, normed);
  if (outcome.fault != StepFault::none) return outcome;
  const std::int64_t updated = timeline_ != nullptr ? timeline_->now() : 0;
  const double publishing = steady_seconds();
  if (comm_.size() > 1) {
    const FlightScope scope(recorder_, Activity::gather_parameters);
    const OwnWork copying(recorder_);  // but for the waits inside, which say so
    sync_->publish_parameters();
    if (device_)
      sync_->gather_parameters(0, 1);
    else
      lanes_.run([&](int lane) { sync_->gather_parameters(lane, lanes_.size()); });
  }
  const double left = steady_seconds();
  times_.step = left - entered;
  times_.compute = computed - computing;
  times_.wait = (computing - entered) + (normed - computed) + (left - publishing);
  if (timeline_ != nullptr && timeline_->enabled()) {
    timeline_->record(EventKind::optimizer, 0, step, 0, begin, updated);
    timeline_->record(EventKind::gather, 0, step, 0, updated, timeline_->now());
  }
  return outcome;
}

}  // namespace lockstep
