// What a training step does where a device holds the flat buffers.

#include <algorithm>
#include <cmath>
#include <exception>
#include <utility>

#include "core/clock.h"
#include "core/flight_recorder.h"
#include "optim/device_optimizer.h"
#include "trainer/step/device_step.h"
#include "trainer/step/train_step.h"

namespace lockstep {
void TrainStep::leave_device() noexcept {
  if (std::uncaught_exceptions() > 0) abandon("an error ends this rank");
  // What is under way uses memory that is about to be freed. Waiting here sees when a peer has failed; to
  // free the memory would wait too, and not see it.
  if (in_flight_ > 0 && device_decides_) {
    try {
      device_->finish();
    } catch (const Error&) {
      // Whoever is in the middle of an error tells of it; this one is its consequence.
    }
  }
  // First, since it ends what waits for peers on the device: to free any memory of a device waits for that.
  sync_.reset();
}

void TrainStep::abandon(const std::string& why) noexcept {
  in_flight_ = 0;
  if (sync_) sync_->abandon(why);
}

/// The ends of a step that is one piece of work.
class TrainStep::Frame final : public StepFrame {
 public:
  Frame(TrainStep& owner, std::int64_t step) : owner_(owner), step_(step) {}
  void begin() override { owner_.sync_->begin_step(step_); }
  void end() override {
    owner_.sync_->finish();
    owner_.decide_and_update(false);
  }

 private:
  TrainStep& owner_;
  std::int64_t step_;
};

/// Parameters and state are copied together, so that one flag says which side is newer.
void TrainStep::read_from_device() const {
  if (!device_ || !device_is_newer_) return;
  device_->read(sync_->parameters().data(), mirror_.as<float>());
  for (std::size_t s = 0; s < optimizer_->state_names().size(); ++s)
    for (const Range& range : optimizer_->shard())
      device_->read(device_->state(s) + optimizer_->state_offset(range), optimizer_->state(s, range));
  device_is_newer_ = false;
}

std::span<const float> TrainStep::parameters() const {
  if (!device_) return sync_->parameters();
  read_from_device();
  return mirror_.as<float>();
}

const Optimizer& TrainStep::optimizer() const {
  read_from_device();
  return *optimizer_;
}

std::span<float> TrainStep::writable_parameters() {
  if (!device_) return sync_->parameters();
  read_from_device();
  host_is_newer_ = true;
  return mirror_.as<float>();
}

Optimizer& TrainStep::writable_optimizer() {
  read_from_device();
  host_is_newer_ = static_cast<bool>(device_);
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

bool TrainStep::device_gradient_is_finite(std::span<const SliceResult> results) {
  // Buckets leave before the host knows the losses, so losses are asked for; a rank's own totals with them.
  bool good = true;
  for (const SliceResult& result : results) good = good && std::isfinite(result.loss);
  if (options_.sync.reduction == Reduction::ordered) {
    device_->read(sync_->finite_marks().data(), of_blocks_);
  } else {
    std::fill(of_blocks_.begin(), of_blocks_.end(), 0.0);
    device_->sum_squares(sync_->totals(), of_blocks_);
  }
  double sum = 0;
  for (const double value : of_blocks_) sum += value;
  return everybody_has(good && std::isfinite(sum));
}

DeviceStepSetup TrainStep::device_setup() const {
  DeviceStepSetup setup;
  setup.rule = find_rule(options_.optimizer);
  setup.buffers = optimizer_->state_names().size();
  setup.elements = optimizer_->state_elements();
  setup.kinds = granule_kinds(executor_->layout(), options_.optimizer);
  if (optimizer_->needs_norms())
    for (const ParameterNorms::Piece& piece : optimizer_->norms().pieces())
      setup.pieces.push_back(piece.range);
  setup.segments = executor_->layout().segments.size();
  setup.places = most_in_flight_;
  return setup;
}

void TrainStep::cut_totals() {
  optimizer_->cut_for_state(sync_->totals(), state_views_);
  state_offsets_.clear();
  for (const TotalView& view : state_views_) state_offsets_.push_back(optimizer_->state_offset(view.range));
}

void TrainStep::update_device(DecisionUse follow) {
  cut_totals();
  device_->update(state_views_, state_offsets_, sync_->parameters().data(), follow);
}

void TrainStep::find_norms() {
  if (!optimizer_->needs_norms()) return;
  if (device_) {
    cut_totals();
    device_->measure(state_views_, state_offsets_, sync_->parameters().data(), norm_sums_);
  } else {
    lanes_.run([&](int lane) {
      optimizer_->measure_share(sync_->totals(), sync_->parameters(), norm_sums_, lane, lanes_.size());
    });
  }
  if (norm_gather_) norm_gather_->run(norm_sums_);
  optimizer_->take_norms(norm_sums_);
  if (device_) device_->set_trusts(optimizer_->trusts());
}

void TrainStep::enqueue_on_device(std::span<const SliceBatch> batches, std::int64_t count, std::int64_t step,
                                  double lr, std::int64_t skipped) {
  using Mark = DeviceStep::Mark;
  require(count > 0, "TrainStep: a batch without samples");
  require(skipped >= 0 && skipped <= step, "TrainStep: more batches skipped than there were");
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
  if (options_.device.scales_loss) inputs.device_loss_scale = device_->loss_scale();
  // With a scale of the loss these count on every step in flight to be applied, and the device counts itself.
  const UpdateScalars scalars = update_scalars(count, step, lr, skipped);
  optimizer_->begin_step(scalars);
  Frame frame(*this, step);
  if (whole_)
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
  if (!whole_) {
    device_->mark(Mark::computed);
    sync_->finish();
    flight.updating_ns = timeline_ != nullptr ? timeline_->now() : 0;
    decide_and_update(true);
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

void TrainStep::decide_and_update(bool marked) {
  using Mark = DeviceStep::Mark;
  const LossScaleOptions* scaling = options_.device.scales_loss ? &loss_scale_options_ : nullptr;
  if (options_.clip_norm > 0) {
    device_->sum_blocks(sync_->totals(), sync_->block_values(), watches());
    sync_->gather_block_values();
    device_->decide(sync_->block_values(), options_.clip_norm, scaling);
  } else if (watches()) {
    device_->decide(sync_->finite_marks(), 0, scaling);
  }
  if (marked) device_->mark(Mark::decided);
  update_device(device_decision());
  if (marked) device_->mark(Mark::updated);
}

bool TrainStep::watches() const {
  return options_.watch_gradient || options_.device.scales_loss;
}

DecisionUse TrainStep::device_decision() const {
  if (options_.clip_norm > 0) return DecisionUse::clip;
  return watches() ? DecisionUse::skip : DecisionUse::nothing;
}

std::span<SliceResult> TrainStep::results_of(int place) {
  const auto slices = static_cast<std::size_t>(mine_.size());
  return std::span(settled_results_).subspan(static_cast<std::size_t>(place) * slices, slices);
}

void TrainStep::settle_on_device() {
  settled_.clear();
  const int under_way = std::exchange(in_flight_, 0);
  if (under_way == 0) return;
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
    const bool decided = device_decision() != DecisionUse::nothing;
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
      return;
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
}

StepTimes TrainStep::times_on_device(int place) const {
  using Mark = DeviceStep::Mark;
  const Flight& flight = flights_[static_cast<std::size_t>(place)];
  const auto between = [&](Mark from, Mark to) { return device_->seconds_between(place, from, place, to); };
  StepTimes times;
  // Inside of a step that is one piece there are no points whose times could be noted, and nobody to wait
  // for.
  times.compute = between(Mark::begun, whole_ ? Mark::gathered : Mark::computed);
  if (!whole_) times.wait = between(Mark::computed, Mark::decided) + between(Mark::updated, Mark::gathered);
  if (place == 0) times.wait += flight.preparing;  // behind another step the device does not notice
  // Of steps in flight the host knows only when it enqueued them. Behind another one a step takes what passes
  // from the end of that one to its own.
  if (most_in_flight_ == 1)
    times.step = steady_seconds() - flight.entered;
  else if (place == 0)
    times.step = flight.preparing + between(Mark::begun, Mark::gathered);
  else
    times.step = device_->seconds_between(place - 1, Mark::gathered, place, Mark::gathered);
  return times;
}

void TrainStep::compute_again(std::span<const SliceBatch> batches, std::int64_t count, std::int64_t step) {
  require(device_decides_ && halted_ && in_flight_ == 0, "TrainStep::compute_again: no step was refused");
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
