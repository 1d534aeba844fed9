#include "trainer/train_step.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "core/finite.h"
#include "core/flight_recorder.h"
#include "trainer/device_optimizer.h"
#include "trainer/device_step.h"

namespace lockstep {
namespace {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

/// Hands what the executor has finished to the synchroniser.
class TrainStep::Listener final : public GradientListener {
 public:
  Listener(GradientSync& sync, const TrainStep& step) : sync_(sync), step_(step) {}
  void begin_step(std::span<const SliceResult> results) {
    results_ = results;
    losses_seen_.store(false, std::memory_order_relaxed);
  }
  void ready(Range range) override {
    // On a device the losses are not known yet: see gradient_is_finite().
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

/// The sums of squares of the totals tell all ranks at once whether the gradient is finite.
GradientSyncOptions with_squares(GradientSyncOptions options, bool watch_gradient) {
  if (watch_gradient && options.reduction == Reduction::ordered) options.squares = true;
  return options;
}

}  // namespace

TrainStep::TrainStep(const Graph& graph, const TrainStepOptions& options, Communicator& comm, LanePool& lanes,
                     Timeline* timeline)
    : options_(options),
      comm_(comm),
      lanes_(lanes),
      timeline_(timeline),
      recorder_(comm.recorder()),
      mine_(slices_of_rank(options.sync.slices, comm.rank(), comm.size())) {
  check(graph, options.sync.slices, comm.size());
  const FlightScope compiling(recorder_, Activity::compile);
  ExecutorOptions executor_options;
  executor_options.slice_rows = options.slice_rows;
  executor_options.training = true;
  executor_options.slices = options.sync.slices;
  executor_options.mine = mine_;
  executor_options.plan_choice = options_.plan_choice;
  executor_options.device_buffers = static_cast<bool>(options_.device.make_step);
  require(!executor_options.device_buffers || !options_.before_ready,
          "TrainStep: before_ready sees host memory, and the gradient lies on a device");
  executor_ = compile_alike(options_.device, graph, executor_options, comm, lanes, timeline);
  const FlatLayout& layout = executor_->layout();
  sync_ = options_.device.make_sync(
      comm, layout.elements, with_squares(options.sync, options.watch_gradient || options.device.scales_loss),
      timeline);
  optimizer_ = std::make_unique<Optimizer>(options.optimizer, layout, sync_->shard());
  if (options_.device.make_step) {
    device_ = options_.device.make_step();
    device_->prepare(optimizer_->state_names().size(), optimizer_->state_elements(),
                     granule_kinds(layout, options.optimizer), update_rule_of(options.optimizer));
    mirror_ = HostBuffer(static_cast<std::size_t>(layout.elements) * sizeof(float));
    host_is_newer_ = true;
    squares_of_sync_.resize(
        static_cast<std::size_t>((layout.elements + block_elements - 1) / block_elements));
  }
  listener_ = std::make_unique<Listener>(*sync_, *this);
  slice_listener_ = std::make_unique<SliceListener>(*this);
  flags_.resize(static_cast<std::size_t>(comm.size()));
  require(sync_->subtrees() == executor_->schedule().roots,
          "the synchroniser and the schedule must agree on subtrees");
  for (std::size_t i = 0; i < sync_->subtrees().size(); ++i) roots_.push_back(sync_->slot(i));

  if (options.clip_norm <= 0) return;
  const std::int64_t blocks = (layout.elements + block_elements - 1) / block_elements;
  squares_.assign(static_cast<std::size_t>(blocks), 0.0);
  if (!options.sync.sharded || comm.size() == 1) return;  // this rank holds every total
  std::string mine;
  for (const Range& range : sync_->shard())
    for (std::int64_t e = range.begin; e < range.end; e += block_elements)
      mine += std::to_string(e / block_elements) + " ";
  std::size_t longest = 0;
  for (const std::string& text : comm.all_gather_text(mine)) {
    std::vector<std::int64_t> list;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t space = text.find(' ', at);
      list.push_back(std::stoll(text.substr(at, space - at)));
      at = space + 1;
    }
    longest = std::max(longest, list.size());
    blocks_.push_back(std::move(list));
  }
  squares_mine_.assign(longest, 0.0);
  squares_all_.assign(longest * static_cast<std::size_t>(comm.size()), 0.0);
}

void TrainStep::check(const Graph& graph, std::int64_t slices, int ranks) {
  if (graph.parameters.empty())
    throw ConfigError("model: it has no parameters, so there is nothing to train; add a conv or dense layer");
  if (ranks > slices)
    throw ConfigError(
        "there are more ranks (" + std::to_string(ranks) + ") than slices (" + std::to_string(slices) +
        "): start fewer ranks, or give train.slices a multiple that divides train.global_batch");
}

TrainStep::~TrainStep() = default;

void TrainStep::keep_slice(std::int64_t slice) {
  kept_slice_ = slice >= mine_.begin && slice < mine_.end ? slice : -1;
  if (kept_slice_ >= 0 && kept_.size() == 0)
    kept_ = HostBuffer(static_cast<std::size_t>(executor_->layout().elements) * sizeof(float));
}

std::span<float> TrainStep::parameters() {
  if (!device_) return sync_->parameters();
  (void)optimizer();  // the two are copied together, so that one flag says which side is newer
  return mirror_.as<float>();
}

Optimizer& TrainStep::optimizer() {
  if (!device_) return *optimizer_;
  if (device_is_newer_) {
    device_->read(sync_->parameters().data(), mirror_.as<float>());
    for (std::size_t s = 0; s < optimizer_->state_names().size(); ++s)
      for (const Range& range : optimizer_->shard())
        device_->read(device_->state(s) + optimizer_->state_offset(range), optimizer_->state(s, range));
    device_is_newer_ = false;
  }
  host_is_newer_ = true;
  return *optimizer_;
}

void TrainStep::write_to_device() {
  if (!host_is_newer_) return;
  device_->write(sync_->parameters().data(), mirror_.as<float>());
  for (std::size_t s = 0; s < optimizer_->state_names().size(); ++s)
    for (const Range& range : optimizer_->shard())
      device_->write(device_->state(s) + optimizer_->state_offset(range), optimizer_->state(s, range));
  host_is_newer_ = false;
}

std::span<const TotalView> TrainStep::totals() {
  if (!device_) return sync_->totals();
  totals_views_.clear();
  totals_copy_.resize(sync_->totals().size());
  for (std::size_t i = 0; i < totals_copy_.size(); ++i) {
    const TotalView& view = sync_->totals()[i];
    totals_copy_[i].resize(static_cast<std::size_t>(view.range.size()));
    device_->read(view.data, totals_copy_[i]);
    totals_views_.push_back({view.range, totals_copy_[i].data()});
  }
  return totals_views_;
}

bool TrainStep::everybody_has(bool good) {
  const std::byte mine{static_cast<unsigned char>(good ? 0 : 1)};
  comm_.all_gather({&mine, 1}, flags_);
  return std::all_of(flags_.begin(), flags_.end(), [](std::byte flag) { return flag == std::byte{0}; });
}

bool TrainStep::gradient_is_finite(std::span<const SliceResult> results) {
  if (device_) {
    // Buckets leave before the host knows the losses, so losses are asked for; a rank's own totals with them.
    bool good = true;
    for (const SliceResult& result : results) good = good && std::isfinite(result.loss);
    if (options_.sync.reduction == Reduction::ordered) {
      device_->read(sync_->squares().data(), squares_of_sync_);
    } else {
      std::fill(squares_of_sync_.begin(), squares_of_sync_.end(), 0.0);
      device_->sum_squares(sync_->totals(), squares_of_sync_);
    }
    double sum = 0;
    for (const double square : squares_of_sync_) sum += square;
    return everybody_has(good && std::isfinite(sum));
  }
  if (options_.sync.reduction == Reduction::ordered) {
    // Squares of floats are far from the largest double: their sum is finite when every element is.
    double sum = 0;
    for (const double square : sync_->squares()) sum += square;
    return std::isfinite(sum);
  }
  // Each rank knows its own totals only, and the library does not promise equal bits: ask around.
  std::atomic<bool> finite{true};
  lanes_.run([&](int lane) {
    for (const TotalView& view : sync_->totals()) {
      const std::int64_t n = view.range.size(), lanes = lanes_.size();
      const std::int64_t from = n * lane / lanes, to = n * (lane + 1) / lanes;
      if (!all_finite({view.data + from, static_cast<std::size_t>(to - from)})) finite = false;
    }
  });
  return everybody_has(finite);
}

double TrainStep::gather_gradient_norm(double inverse_count) {
  if (device_)
    device_->sum_squares(sync_->totals(), squares_);
  else
    lanes_.run([&](int lane) { optimizer_->sum_squares(sync_->totals(), squares_, lane, lanes_.size()); });
  if (!blocks_.empty()) {
    const auto& own = blocks_[static_cast<std::size_t>(comm_.rank())];
    for (std::size_t i = 0; i < own.size(); ++i)
      squares_mine_[i] = squares_[static_cast<std::size_t>(own[i])];
    comm_.all_gather(std::as_bytes(std::span(squares_mine_)),
                     std::as_writable_bytes(std::span(squares_all_)));
    for (std::size_t r = 0; r < blocks_.size(); ++r)
      for (std::size_t i = 0; i < blocks_[r].size(); ++i)
        squares_[static_cast<std::size_t>(blocks_[r][i])] = squares_all_[r * squares_mine_.size() + i];
  }
  return lockstep::gradient_norm(squares_, inverse_count);
}

StepOutcome TrainStep::update(std::int64_t count, std::int64_t step, double lr,
                              std::span<const SliceResult> results, std::int64_t skipped, double& normed) {
  const FlightScope scope(recorder_, Activity::optimizer);
  UpdateScalars scalars;
  scalars.lr = lr;
  scalars.inverse_count = 1.0 / static_cast<double>(count);
  scalars.step = step - skipped - loss_scale_.skipped;
  StepOutcome outcome;
  outcome.lr = lr;
  const bool watch = options_.watch_gradient || options_.device.scales_loss;
  if (watch && !gradient_is_finite(results)) {
    // Decided on the totals, so all ranks skip alike. A gradient that overflows at the smallest scale too is
    // not the scale's fault.
    const bool by_scale = options_.device.scales_loss && loss_scale_.scale > loss_scale_options_.smallest;
    outcome.fault = by_scale ? StepFault::overflow : StepFault::nonfinite;
    if (by_scale) loss_scale_ = next_loss_scale(loss_scale_, true, loss_scale_options_);
  }
  if (outcome.fault == StepFault::none && options_.before_update && !options_.before_update(results))
    outcome.fault = StepFault::refused;
  if (outcome.fault != StepFault::none) return outcome;
  if (options_.device.scales_loss) loss_scale_ = next_loss_scale(loss_scale_, false, loss_scale_options_);
  if (options_.clip_norm > 0) {
    outcome.gradient_norm = gather_gradient_norm(scalars.inverse_count);
    if (!std::isfinite(outcome.gradient_norm))
      throw DivergenceError("step " + std::to_string(step) + ": the gradient norm is " +
                            (std::isnan(outcome.gradient_norm) ? "not a number" : "infinite") +
                            "; the parameters were not changed by this step. Lower optimizer.lr or lengthen "
                            "schedule.warmup_steps");
    scalars.clip_scale = clip_scale(outcome.gradient_norm, options_.clip_norm);
  }
  normed = seconds_now();
  optimizer_->begin_step(scalars);
  if (device_) {
    state_offsets_.clear();
    for (const TotalView& view : sync_->totals())
      state_offsets_.push_back(optimizer_->state_offset(view.range));
    device_->update(sync_->totals(), state_offsets_, sync_->parameters().data(),
                    device_factors(optimizer_->factors()));
    device_is_newer_ = true;
  } else {
    lanes_.run([&](int lane) {
      optimizer_->update_share(sync_->totals(), sync_->parameters(), lane, lanes_.size());
    });
  }
  return outcome;
}

StepOutcome TrainStep::run(std::span<const SliceBatch> batches, std::int64_t count, std::int64_t step,
                           double lr, std::span<SliceResult> results, std::int64_t skipped) {
  require(count > 0, "TrainStep::run: a batch without samples");
  require(skipped >= 0 && skipped <= step, "TrainStep::run: more batches skipped than there were");
  const double entered = seconds_now();
  if (device_) write_to_device();
  sync_->begin_step(step);
  StepInputs inputs;
  inputs.seed = options_.seed;
  inputs.step = static_cast<std::uint64_t>(step);
  inputs.parameters = sync_->parameters();
  inputs.slices = batches;
  inputs.roots = roots_;
  inputs.results = results;
  inputs.listener = listener_.get();
  if (options_.device.scales_loss) inputs.loss_scale = loss_scale_.scale;
  if (options_.after_slice || kept_slice_ >= 0) inputs.slice_listener = slice_listener_.get();
  listener_->begin_step(results);
  const double computing = seconds_now();
  {
    const FlightScope scope(recorder_, Activity::compute);
    executor_->train(inputs);
  }
  const double computed = seconds_now();
  sync_->finish();

  const std::int64_t begin = timeline_ != nullptr ? timeline_->now() : 0;
  double normed = computed;
  const StepOutcome outcome = update(count, step, lr, results, skipped, normed);
  if (outcome.fault != StepFault::none) return outcome;
  const std::int64_t updated = timeline_ != nullptr ? timeline_->now() : 0;
  const double publishing = seconds_now();
  if (comm_.size() > 1) {
    const FlightScope scope(recorder_, Activity::gather_parameters);
    sync_->publish_parameters();
    if (device_)
      sync_->gather_parameters(0, 1);
    else
      lanes_.run([&](int lane) { sync_->gather_parameters(lane, lanes_.size()); });
  }
  const double left = seconds_now();
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
