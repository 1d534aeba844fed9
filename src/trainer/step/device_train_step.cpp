#include "trainer/step/device_train_step.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <utility>

#include "core/clock.h"
#include "core/error.h"
#include "core/flight_recorder.h"
#include "optim/device_optimizer.h"

namespace lockstep {
namespace {

void put_on_device(std::span<const TotalView> from, std::vector<DeviceTotal>& to) {
  to.clear();
  for (const TotalView& view : from) to.push_back({view.range, DevicePointer<const float>(view.data)});
}

}  // namespace

/// The ends of a step that is one piece of work.
class DeviceTrainStep::Frame final : public StepFrame {
 public:
  Frame(DeviceTrainStep& owner, std::int64_t step) : owner_(owner), step_(step) {}
  void begin() override { owner_.sync_->begin_step(step_); }
  void end() override {
    owner_.sync_->finish();
    owner_.decide_on_device(false);
  }

 private:
  DeviceTrainStep& owner_;
  std::int64_t step_;
};

DeviceTrainStep::DeviceTrainStep(const Graph& graph, const TrainStepOptions& options, const StepMode& mode,
                                 Communicator& comm, LanePool& lanes, Timeline* timeline)
    : StepCore(graph, options, mode, comm, lanes, timeline), device_(options_.device.make_step()) {
  const FlightScope compiling(recorder_, Activity::compile);
  device_->prepare(setup());
  const std::int64_t elements = executor_->layout().elements;
  mirror_ = HostBuffer(static_cast<std::size_t>(elements) * sizeof(float));
  of_blocks_.resize(static_cast<std::size_t>((elements + block_elements - 1) / block_elements));
  flights_.resize(static_cast<std::size_t>(mode_.most_in_flight));
}

DeviceTrainStep::~DeviceTrainStep() {
  if (std::uncaught_exceptions() > 0) abandon("an error ends this rank");
  // What is under way uses memory that is about to be freed. Waiting here sees when a peer has failed; to
  // free the memory would wait too, and not see it.
  if (in_flight_ > 0 && mode_.device_decides) {
    try {
      device_->finish();
    } catch (const Error&) {
      // Whoever is in the middle of an error tells of it; this one is its consequence.
    }
  }
  // First, since it ends what waits for peers on the device: to free any memory of a device waits for that.
  sync_.reset();
}

DeviceStepSetup DeviceTrainStep::setup() const {
  DeviceStepSetup setup;
  setup.rule = find_rule(options_.optimizer);
  setup.buffers = optimizer_->state_names().size();
  setup.elements = optimizer_->state_elements();
  setup.kinds = granule_kinds(executor_->layout(), options_.optimizer);
  if (optimizer_->needs_norms())
    for (const ParameterNorms::Piece& piece : optimizer_->norms().pieces())
      setup.pieces.push_back(piece.range);
  setup.segments = executor_->layout().segments.size();
  setup.places = mode_.most_in_flight;
  return setup;
}

// ---- what the host reads and writes ----

template <class Copy>
void DeviceTrainStep::each_state(Copy&& copy) const {
  for (std::size_t s = 0; s < optimizer_->state_names().size(); ++s)
    for (const Range& range : optimizer_->shard())
      copy(device_->state(s) + optimizer_->state_offset(range), optimizer_->state(s, range));
}

/// Parameters and state are copied together, so that one flag says which side is newer.
void DeviceTrainStep::read_from_device() const {
  if (!device_is_newer_) return;
  device_->read(device_parameters(), mirror_.as<float>());
  each_state([&](DevicePointer<float> there, std::span<float> here) { device_->read(there, here); });
  device_is_newer_ = false;
}

void DeviceTrainStep::write_to_device() {
  if (!host_is_newer_) return;
  device_->write(device_parameters(), mirror_.as<float>());
  each_state([&](DevicePointer<float> there, std::span<float> here) { device_->write(there, here); });
  host_is_newer_ = false;
}

std::span<const float> DeviceTrainStep::parameters() const {
  read_from_device();
  return mirror_.as<float>();
}

const Optimizer& DeviceTrainStep::optimizer() const {
  read_from_device();
  return *optimizer_;
}

std::span<float> DeviceTrainStep::writable_parameters() {
  read_from_device();
  host_is_newer_ = true;
  return mirror_.as<float>();
}

Optimizer& DeviceTrainStep::writable_optimizer() {
  read_from_device();
  host_is_newer_ = true;
  return *optimizer_;
}

void DeviceTrainStep::set_loss_scale(const LossScale& state) {
  StepCore::set_loss_scale(state);
  scale_is_newer_ = true;
}

std::span<const DeviceTotal> DeviceTrainStep::device_totals() {
  put_on_device(sync_->totals(), totals_);
  return totals_;
}

std::span<const TotalView> DeviceTrainStep::totals() {
  const std::span<const DeviceTotal> there = device_totals();
  totals_views_.clear();
  totals_copy_.resize(there.size());
  for (std::size_t i = 0; i < there.size(); ++i) {
    totals_copy_[i].resize(static_cast<std::size_t>(there[i].range.size()));
    device_->read(there[i].data, totals_copy_[i]);
    totals_views_.push_back({there[i].range, totals_copy_[i].data()});
  }
  return totals_views_;
}

void DeviceTrainStep::cut_totals() {
  optimizer_->cut_for_state(sync_->totals(), state_views_);
  put_on_device(state_views_, state_totals_);
  state_offsets_.clear();
  for (const DeviceTotal& total : state_totals_)
    state_offsets_.push_back(optimizer_->state_offset(total.range));
}

void DeviceTrainStep::update_on_device(DecisionUse follow) {
  cut_totals();
  device_->update(state_totals_, state_offsets_, device_parameters(), follow);
}

// ---- a step that the host decides ----

bool DeviceTrainStep::gradient_is_finite(std::span<const SliceResult> results) {
  // Buckets leave before the host knows the losses, so losses are asked for; a rank's own totals with them.
  bool good = true;
  for (const SliceResult& result : results) good = good && std::isfinite(result.loss);
  if (options_.sync.reduction == Reduction::ordered) {
    device_->read(on_device(sync_->finite_marks()).data(), of_blocks_);
  } else {
    std::fill(of_blocks_.begin(), of_blocks_.end(), 0.0);
    device_->sum_squares(device_totals(), of_blocks_);
  }
  double sum = 0;
  for (const double value : of_blocks_) sum += value;
  return everybody_has(good && std::isfinite(sum));
}

void DeviceTrainStep::sum_squares(std::span<double> sums) {
  device_->sum_squares(device_totals(), sums);
}

void DeviceTrainStep::measure(std::span<double> sums) {
  cut_totals();
  device_->measure(state_totals_, state_offsets_, device_parameters(), sums);
}

void DeviceTrainStep::update(const UpdateScalars& scalars) {
  device_->begin(0, device_scalars(*optimizer_, scalars, options_.optimizer, scalars.step));
  find_norms();
  if (optimizer_->needs_norms()) device_->set_trusts(optimizer_->trusts());
  update_on_device(DecisionUse::nothing);
  device_is_newer_ = true;
}

// ---- a step that the device decides ----

void DeviceTrainStep::enqueue(std::span<const Batch> batches, const BatchCount& count, std::int64_t step,
                              double lr, std::int64_t skipped) {
  if (!mode_.device_decides) {
    StepCore::enqueue(batches, count, step, lr, skipped);
    return;
  }
  require(!full(), "TrainStep::enqueue: the steps in flight were not settled");
  enqueue_on_device(batches, count, step, lr, skipped);
}

void DeviceTrainStep::enqueue_on_device(std::span<const Batch> batches, const BatchCount& count,
                                        std::int64_t step, double lr, std::int64_t skipped) {
  using Mark = DeviceStep::Mark;
  check_batch(count, step, skipped);
  const int place = in_flight_++;
  Flight& flight = flights_[static_cast<std::size_t>(place)];
  flight.step = step;
  flight.lr = lr;
  flight.entered = steady_seconds();
  if (std::exchange(halted_, false)) device_->resume();
  if (options_.device.scales_loss && std::exchange(scale_is_newer_, false))
    device_->set_loss_scale(loss_scale_);
  write_to_device();
  StepInputs inputs = step_inputs(batches, step);
  inputs.place = place;
  inputs.results = results_of(place);
  inputs.only_enqueue = true;
  inputs.spread_nonfinite_loss = watches();
  if (options_.device.scales_loss) inputs.device_loss_scale = device_->loss_scale().address();
  // With a scale of the loss these count on every step in flight to be applied, and the device counts itself.
  const UpdateScalars scalars = update_scalars(count, step, lr, skipped);
  optimizer_->begin_step(scalars);
  Frame frame(*this, step);
  if (mode_.whole)
    inputs.frame = &frame;
  else
    frame.begin();
  flight.preparing = steady_seconds() - flight.entered;
  device_->begin(place, device_scalars(*optimizer_, scalars, options_.optimizer, step - skipped));
  device_->mark(Mark::begun);
  {
    const FlightScope scope(recorder_, Activity::compute);
    executor_->train(inputs);
  }
  if (!mode_.whole) {
    device_->mark(Mark::computed);
    sync_->finish();
    flight.updating_ns = timeline_ != nullptr ? timeline_->now() : 0;
    decide_on_device(true);
    flight.updated_ns = timeline_ != nullptr ? timeline_->now() : 0;
  }
  if (comm_.size() > 1) {
    // Also where the update is left out, which the host does not know yet: then everybody gets what it has.
    const FlightScope scope(recorder_, Activity::gather_parameters);
    sync_->publish_parameters();
    sync_->gather_parameters(0, 1);
  }
  device_->mark(Mark::gathered);
  device_->end();
  device_is_newer_ = true;
}

void DeviceTrainStep::decide_on_device(bool marked) {
  using Mark = DeviceStep::Mark;
  const LossScaleOptions* scaling = options_.device.scales_loss ? &loss_scale_options_ : nullptr;
  if (options_.clip_norm > 0) {
    const DeviceSpan<double> values = on_device(sync_->block_values());
    device_->sum_blocks(device_totals(), values, watches());
    sync_->gather_block_values();
    device_->decide(values, options_.clip_norm, scaling);
  } else if (watches()) {
    device_->decide(on_device(sync_->finite_marks()), 0, scaling);
  }
  if (marked) device_->mark(Mark::decided);
  update_on_device(decision_use());
  if (marked) device_->mark(Mark::updated);
}

DecisionUse DeviceTrainStep::decision_use() const {
  if (options_.clip_norm > 0) return DecisionUse::clip;
  return watches() ? DecisionUse::skip : DecisionUse::nothing;
}

std::span<const SettledStep> DeviceTrainStep::settle() {
  if (!mode_.device_decides) return StepCore::settle();
  settled_.clear();
  const int under_way = std::exchange(in_flight_, 0);
  if (under_way == 0) return settled_;
  {
    const FlightScope scope(recorder_, Activity::compute);
    device_->finish();
  }
  for (int place = 0; place < under_way; ++place) {
    const Flight& flight = flights_[static_cast<std::size_t>(place)];
    const cuda::StepDecision decision = device_->decision(place);
    SettledStep settled;
    settled.step = flight.step;
    settled.outcome.lr = flight.lr;
    settled.results = results_of(place);
    executor_->give_results(place, results_of(place));
    if (options_.device.scales_loss) loss_scale_ = decision.loss_scale;
    const bool decided = decision_use() != DecisionUse::nothing;
    if (decided && decision.skip == cuda::step_overflowed) {
      settled.outcome.fault = StepFault::overflow;
      settled_.push_back(settled);
      continue;
    }
    if (decided && decision.skip != cuda::step_applied) {
      require(decision.skip == cuda::step_refused, "a step is void, and none before it was refused");
      halted_ = true;
      if (!watches()) throw_divergence(flight.step, decision.norm);
      settled.outcome.fault = StepFault::nonfinite;
      settled_.push_back(settled);
      return settled_;
    }
    if (options_.clip_norm > 0) settled.outcome.gradient_norm = decision.norm;
    times_ = times_on_device(place);
    settled.times = times_;
    settled_.push_back(settled);
    if (timeline_ != nullptr && timeline_->enabled()) {
      timeline_->record(EventKind::optimizer, 0, flight.step, 0, flight.updating_ns, flight.updated_ns);
      timeline_->record(EventKind::gather, 0, flight.step, 0, flight.updated_ns, timeline_->now());
    }
  }
  return settled_;
}

StepTimes DeviceTrainStep::times_on_device(int place) const {
  using Mark = DeviceStep::Mark;
  const Flight& flight = flights_[static_cast<std::size_t>(place)];
  const auto between = [&](Mark from, Mark to) { return device_->seconds_between(place, from, place, to); };
  StepTimes times;
  // Inside of a step that is one piece there are no points whose times could be noted, and nobody to wait
  // for.
  times.compute = between(Mark::begun, mode_.whole ? Mark::gathered : Mark::computed);
  if (!mode_.whole)
    times.wait = between(Mark::computed, Mark::decided) + between(Mark::updated, Mark::gathered);
  if (place == 0) times.wait += flight.preparing;  // behind another step the device does not notice
  // Of steps in flight the host knows only when it enqueued them. Behind another one a step takes what passes
  // from the end of that one to its own.
  if (mode_.most_in_flight == 1)
    times.step = steady_seconds() - flight.entered;
  else if (place == 0)
    times.step = flight.preparing + between(Mark::begun, Mark::gathered);
  else
    times.step = device_->seconds_between(place - 1, Mark::gathered, place, Mark::gathered);
  return times;
}

void DeviceTrainStep::compute_again(std::span<const Batch> batches, const BatchCount& count,
                                    std::int64_t step) {
  require(mode_.device_decides && halted_ && in_flight_ == 0,
          "TrainStep::compute_again: no step was refused");
  halted_ = false;  // by name only: the device still is, and applies nothing
  enqueue_on_device(batches, count, step, 0, 0);
  {
    const FlightScope scope(recorder_, Activity::compute);
    device_->finish();
  }
  in_flight_ = 0;
  halted_ = true;
}

}  // namespace lockstep
