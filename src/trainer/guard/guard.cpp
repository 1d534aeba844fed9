#include "trainer/guard/guard.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace lockstep {
namespace {

GuardPolicy policy_of(const std::string& name) {
  if (name == "stop") return GuardPolicy::stop;
  if (name == "skip") return GuardPolicy::skip;
  if (name == "rollback") return GuardPolicy::rollback;
  require(name == "off", "a guard policy that the key table does not know");
  return GuardPolicy::off;
}

}  // namespace

SpikeWindow::SpikeWindow(double factor, std::int64_t steps)
    : factor_(factor), steps_(static_cast<std::size_t>(steps)) {
  require(steps >= 1, "SpikeWindow: no steps");
  ring_.reserve(steps_);
}

std::optional<double> SpikeWindow::bound() const {
  if (ring_.size() < steps_) return std::nullopt;
  double sum = 0;
  for (std::size_t i = next_; i < steps_; ++i) sum += ring_[i];
  for (std::size_t i = 0; i < next_; ++i) sum += ring_[i];
  return factor_ * (sum / static_cast<double>(steps_));
}

void SpikeWindow::push(double loss) {
  if (ring_.size() < steps_) {
    ring_.push_back(loss);
    return;
  }
  ring_[next_] = loss;
  next_ = (next_ + 1) % steps_;
}

std::vector<double> SpikeWindow::history() const {
  std::vector<double> losses(ring_.begin() + static_cast<std::ptrdiff_t>(next_), ring_.end());
  losses.insert(losses.end(), ring_.begin(), ring_.begin() + static_cast<std::ptrdiff_t>(next_));
  return losses;
}

void SpikeWindow::restore(std::span<const double> history) {
  ring_.clear();
  next_ = 0;
  for (const double loss : history.last(std::min(history.size(), steps_))) ring_.push_back(loss);
}

Guard::Guard(const Config::Guard& options, Communicator& comm, std::int64_t slices)
    : nonfinite_(policy_of(options.nonfinite)),
      spike_(policy_of(options.spike)),
      limit_(options.limit),
      window_(options.spike_factor, spike_ == GuardPolicy::off ? 1 : options.spike_window),
      losses_(comm, slices, 1) {}

bool Guard::accept_loss(std::int64_t step, std::span<const SliceResult> mine) {
  losses_.record(step, mine);
  const StepSums sums = losses_.flush().front();
  last_loss_ = sums.loss / sums.weight;
  const std::optional<double> bound = window_.bound();
  if (bound && last_loss_ > *bound) {
    last_bound_ = *bound;
    return false;
  }
  window_.push(last_loss_);
  return true;
}

bool Guard::skips(std::int64_t step) const {
  return std::any_of(skipped_.begin(), skipped_.end(), [&](const SkippedBatch& b) { return b.step == step; });
}

std::int64_t Guard::skipped_before(std::int64_t step) const {
  return std::count_if(skipped_.begin(), skipped_.end(),
                       [&](const SkippedBatch& b) { return b.step < step; });
}

void Guard::skip(SkippedBatch batch) {
  require(!skips(batch.step), "a batch is skipped twice");
  const auto after = std::find_if(skipped_.begin(), skipped_.end(),
                                  [&](const SkippedBatch& b) { return b.step > batch.step; });
  skipped_.insert(after, std::move(batch));
}

GuardState Guard::state() const {
  GuardState state{skipped_, std::nullopt};
  if (watches_spikes()) state.losses = window_.history();
  return state;
}

void Guard::restore(const GuardState& state) {
  if (watches_spikes()) window_.restore(state.losses.value_or(std::vector<double>()));
  for (const SkippedBatch& batch : state.skipped)
    if (!skips(batch.step)) skip(batch);
}

}  // namespace lockstep
