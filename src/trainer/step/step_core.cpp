#include "trainer/step/step_core.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <utility>

#include "core/clock.h"
#include "core/error.h"
#include "core/flight_recorder.h"

namespace lockstep {

/// Hands what the executor has finished to the synchroniser.
class StepCore::Listener final : public GradientListener {
 public:
  Listener(GradientSync& sync, const StepCore& step)
      : sync_(sync), step_(step), sees_losses_(step.options_.watch_gradient && !step.mode_.on_device) {}
  void begin_step(std::span<const SliceResult> results) {
    results_ = results;
    losses_seen_.store(false, std::memory_order_relaxed);
  }
  void ready(Range range) override {
    // On a device the losses are not known yet: see StepInputs::spread_nonfinite_loss, or
    // DeviceTrainStep::gradient_is_finite().
    if (range.size() > 0 && sees_losses_ && !losses_seen_.exchange(true)) pass_on_loss(range);
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
  const StepCore& step_;
  const bool sees_losses_;
  std::span<const SliceResult> results_;
  std::atomic<bool> losses_seen_{false};
};

/// Keeps the gradient of one slice.
class StepCore::SliceListener final : public SliceGradientListener {
 public:
  explicit SliceListener(StepCore& step) : step_(step) {}
  void slice_ready(std::int64_t slice, Range range, std::span<float> gradient) override {
    if (step_.options_.after_slice) step_.options_.after_slice(slice, range, gradient);
    if (slice == step_.kept_slice_)
      std::memcpy(step_.kept_.as<float>().data() + range.begin, gradient.data(), gradient.size_bytes());
  }

 private:
  StepCore& step_;
};

StepCore::StepCore(const Graph& graph, const TrainStepOptions& options, const StepMode& mode,
                   Communicator& comm, LanePool& lanes, Timeline* timeline)
    : options_(options),
      mode_(mode),
      comm_(comm),
      lanes_(lanes),
      timeline_(timeline),
      recorder_(comm.recorder()),
      mine_(slices_of_rank(options.sync.slices, comm.rank(), comm.size())) {
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
  executor_options.places = mode_.most_in_flight;
  executor_options.whole_step = mode_.whole;
  executor_options.device_buffers = mode_.on_device;
  require(!executor_options.device_buffers || !options_.before_ready,
          "TrainStep: before_ready sees host memory, and the gradient lies on a device");
  executor_ = compile_on_all(options_.device, graph, executor_options, comm, lanes, timeline);
  const FlatLayout& layout = executor_->layout();
  sync_ = options_.device.make_sync(comm, layout.elements, mode_.sync, timeline);
  optimizer_ = std::make_unique<Optimizer>(options.optimizer, layout, sync_->shard());
  listener_ = std::make_unique<Listener>(*sync_, *this);
  slice_listener_ = std::make_unique<SliceListener>(*this);
  flags_.resize(static_cast<std::size_t>(comm.size()));
  const auto places = static_cast<std::size_t>(mode_.most_in_flight);
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
  if (options.clip_norm <= 0 || mode_.device_decides) return;
  const std::int64_t blocks = (layout.elements + block_elements - 1) / block_elements;
  squares_.assign(static_cast<std::size_t>(blocks), 0.0);
  if (options.sync.sharded && comm.size() > 1)  // else this rank holds every total
    block_gather_ = std::make_unique<BlockGather>(comm, sync_->shard());
}

StepCore::~StepCore() {
  if (std::uncaught_exceptions() > 0) abandon("an error ends this rank");
  sync_.reset();
}

void StepCore::abandon(const std::string& why) noexcept {
  in_flight_ = 0;
  if (sync_) sync_->abandon(why);
}

void StepCore::keep_slice(std::int64_t slice) {
  kept_slice_ = slice >= mine_.begin && slice < mine_.end ? slice : -1;
  if (kept_slice_ >= 0 && kept_.size() == 0)
    kept_ = HostBuffer(static_cast<std::size_t>(executor_->layout().elements) * sizeof(float));
}

const LossScale& StepCore::loss_scale() const {
  require(in_flight_ == 0, "TrainStep::loss_scale: steps were not settled");
  return loss_scale_;
}

void StepCore::set_loss_scale(const LossScale& state) {
  require(in_flight_ == 0, "TrainStep::set_loss_scale: steps were not settled");
  loss_scale_ = state;
}

bool StepCore::everybody_has(bool good) {
  const std::byte mine{static_cast<unsigned char>(good ? 0 : 1)};
  comm_.all_gather({&mine, 1}, flags_);
  return std::all_of(flags_.begin(), flags_.end(), [](std::byte flag) { return flag == std::byte{0}; });
}

double StepCore::gather_gradient_norm(double inverse_weight) {
  sum_squares(squares_);
  if (block_gather_) block_gather_->run(squares_);
  return gradient_norm(squares_, inverse_weight);
}

void StepCore::find_norms() {
  if (!optimizer_->needs_norms()) return;
  measure(norm_sums_);
  if (norm_gather_) norm_gather_->run(norm_sums_);
  optimizer_->take_norms(norm_sums_);
}

StepFault StepCore::note_nonfinite() {
  // Decided on the totals, so all ranks skip alike.
  if (!options_.device.scales_loss || !scale_may_be_at_fault(loss_scale_, loss_scale_options_))
    return StepFault::nonfinite;
  loss_scale_ = next_loss_scale(loss_scale_, true, loss_scale_options_);
  return StepFault::overflow;
}

void StepCore::throw_divergence(std::int64_t step, double norm) {
  throw DivergenceError("step " + std::to_string(step) + ": the gradient norm is " +
                        (std::isnan(norm) ? "not a number" : "infinite") +
                        "; the parameters were not changed by this step. Lower optimizer.lr or lengthen "
                        "schedule.warmup_steps");
}

void StepCore::check_batch(const BatchCount& count, std::int64_t step, std::int64_t skipped) {
  require(count.samples > 0 && count.weight > 0, "TrainStep: a batch without samples or weight");
  require(skipped >= 0 && skipped <= step, "TrainStep: more batches skipped than there were");
}

UpdateScalars StepCore::update_scalars(const BatchCount& count, std::int64_t step, double lr,
                                       std::int64_t skipped) const {
  UpdateScalars scalars;
  scalars.lr = lr;
  scalars.inverse_count = 1.0 / static_cast<double>(count.samples);
  scalars.inverse_weight = 1.0 / count.weight;
  scalars.step = step - skipped - loss_scale_.skipped;
  return scalars;
}

StepOutcome StepCore::decide_and_update(const BatchCount& count, std::int64_t step, double lr,
                                        std::span<const SliceResult> results, std::int64_t skipped,
                                        double& normed) {
  const FlightScope scope(recorder_, Activity::optimizer);
  UpdateScalars scalars = update_scalars(count, step, lr, skipped);
  StepOutcome outcome;
  outcome.lr = lr;
  if (watches() && !gradient_is_finite(results)) outcome.fault = note_nonfinite();
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
  update(scalars);
  return outcome;
}

std::span<SliceResult> StepCore::results_of(int place) {
  const auto slices = static_cast<std::size_t>(mine_.size());
  return std::span(settled_results_).subspan(static_cast<std::size_t>(place) * slices, slices);
}

void StepCore::enqueue(std::span<const Batch> batches, const BatchCount& count, std::int64_t step, double lr,
                       std::int64_t skipped) {
  require(!full(), "TrainStep::enqueue: the steps in flight were not settled");
  SettledStep settled;
  settled.step = step;
  settled.outcome = run_with_host(batches, count, step, lr, results_of(0), skipped);
  settled.results = results_of(0);
  settled.times = times_;
  settled_.assign(1, settled);
  in_flight_ = 1;
}

std::span<const SettledStep> StepCore::settle() {
  if (std::exchange(in_flight_, 0) == 0) settled_.clear();
  return settled_;
}

StepInputs StepCore::step_inputs(std::span<const Batch> batches, std::int64_t step) {
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

StepOutcome StepCore::run_with_host(std::span<const Batch> batches, const BatchCount& count,
                                    std::int64_t step, double lr, std::span<SliceResult> results,
                                    std::int64_t skipped) {
  check_batch(count, step, skipped);
  const double entered = steady_seconds();
  before_step();
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
  const StepOutcome outcome = decide_and_update(count, step, lr, results, skipped, normed);
  if (outcome.fault != StepFault::none) return outcome;
  const std::int64_t updated = timeline_ != nullptr ? timeline_->now() : 0;
  const double publishing = steady_seconds();
  if (comm_.size() > 1) {
    const FlightScope scope(recorder_, Activity::gather_parameters);
    const OwnWork copying(recorder_);  // but for the waits inside, which say so
    sync_->publish_parameters();
    gather_parameters();
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
