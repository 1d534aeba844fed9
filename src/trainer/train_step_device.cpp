// What a training step does where a device holds the flat buffers.

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/flight_recorder.h"
#include "trainer/device_optimizer.h"
#include "trainer/device_step.h"
#include "trainer/train_step.h"

namespace lockstep {
namespace {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

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

bool TrainStep::device_gradient_is_finite(std::span<const SliceResult> results) {
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

void TrainStep::update_device(DecisionUse follow) {
  state_offsets_.clear();
  for (const TotalView& view : sync_->totals())
    state_offsets_.push_back(optimizer_->state_offset(view.range));
  device_->update(sync_->totals(), state_offsets_, sync_->parameters().data(),
                  device_factors(optimizer_->factors()), follow);
}

StepOutcome TrainStep::run_on_device(StepInputs& inputs, std::int64_t count, double lr, std::int64_t skipped,
                                     double entered) {
  using Mark = DeviceStep::Mark;
  const auto step = static_cast<std::int64_t>(inputs.step);
  const bool watch = options_.watch_gradient || options_.device.scales_loss;
  const bool clips = options_.clip_norm > 0;
  inputs.only_enqueue = true;
  inputs.spread_nonfinite_loss = watch;
  const double computing = seconds_now();
  device_->mark(Mark::begun);
  {
    const FlightScope scope(recorder_, Activity::compute);
    executor_->train(inputs);
  }
  device_->mark(Mark::computed);
  sync_->finish();

  const std::int64_t begin = timeline_ != nullptr ? timeline_->now() : 0;
  const UpdateScalars scalars = update_scalars(count, step, lr, skipped);
  DecisionUse follow = DecisionUse::nothing;
  if (clips) {
    device_->sum_blocks(sync_->totals(), sync_->block_values(), watch);
    sync_->gather_block_values();
    device_->decide(sync_->block_values(), scalars.inverse_count, options_.clip_norm);
    follow = DecisionUse::clip;
  } else if (watch) {
    device_->decide(sync_->squares(), scalars.inverse_count, 0);
    follow = DecisionUse::skip;
  }
  device_->mark(Mark::decided);
  optimizer_->begin_step(scalars);
  update_device(follow);
  device_->mark(Mark::updated);
  const std::int64_t updated = timeline_ != nullptr ? timeline_->now() : 0;
  if (comm_.size() > 1) {
    // Also where the update is left out, which the host does not know yet: then everybody gets what it has.
    const FlightScope scope(recorder_, Activity::gather_parameters);
    sync_->publish_parameters();
    sync_->gather_parameters(0, 1);
  }
  device_->mark(Mark::gathered);
  cuda::StepDecision decision;
  {
    const FlightScope scope(recorder_, Activity::compute);
    decision = device_->finish();
  }
  executor_->give_results(inputs);

  StepOutcome outcome;
  outcome.lr = lr;
  if (follow != DecisionUse::nothing && decision.skip != 0) {
    if (!watch) throw_divergence(step, decision.norm);
    outcome.fault = note_nonfinite();
    return outcome;
  }
  if (options_.device.scales_loss) loss_scale_ = next_loss_scale(loss_scale_, false, loss_scale_options_);
  if (clips) outcome.gradient_norm = decision.norm;
  device_is_newer_ = true;
  times_.step = seconds_now() - entered;
  times_.compute = device_->seconds_between(Mark::begun, Mark::computed);
  times_.wait = (computing - entered) + device_->seconds_between(Mark::computed, Mark::decided) +
                device_->seconds_between(Mark::updated, Mark::gathered);
  if (timeline_ != nullptr && timeline_->enabled()) {
    timeline_->record(EventKind::optimizer, 0, step, 0, begin, updated);
    timeline_->record(EventKind::gather, 0, step, 0, updated, timeline_->now());
  }
  return outcome;
}

}  // namespace lockstep
