#include "trainer/guard/guard.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json_number.h"

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

nlohmann::json Guard::to_json() const {
  nlohmann::json skipped = nlohmann::json::array();
  for (const SkippedBatch& b : skipped_)
    skipped.push_back({{"step", b.step + 1},
                       {"position", b.position},
                       {"epoch", b.epoch + 1},
                       {"reason", b.reason},
                       {"samples", b.samples}});
  nlohmann::json state{{"skipped", std::move(skipped)}};
  if (watches_spikes()) state["losses"] = window_.history();
  return state;
}

void Guard::restore(const nlohmann::json& state, const std::string& origin) {
  if (!state.is_object()) throw InputError(origin + ": the state of the guards is not an object");
  try {
    std::vector<double> losses;
    if (state.contains("losses")) losses = json_reals(state, "losses");
    if (watches_spikes()) window_.restore(losses);
    if (const auto it = state.find("skipped"); it != state.end()) {
      for (const nlohmann::json& entry : *it) {
        SkippedBatch b;
        b.step = json_integer(entry, "step", 1) - 1;
        b.position = json_integer(entry, "position", 0);
        b.epoch = json_integer(entry, "epoch", 1) - 1;
        b.reason = entry.at("reason").get<std::string>();
        b.samples = json_integers(entry, "samples", 0);
        if (!skips(b.step)) skip(std::move(b));
      }
    }
  } catch (const nlohmann::json::exception& e) {
    throw InputError(fmt::format("{}: the state of the guards cannot be read: {}", origin, json_fault(e)));
  } catch (const JsonNumberError& e) {
    throw InputError(fmt::format("{}: the state of the guards cannot be right: {}", origin, e.what()));
  }
}

}  // namespace lockstep
