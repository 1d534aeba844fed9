#include "trainer/guard/straggler.h"

#include <algorithm>
#include <fmt/format.h>

#include "core/error.h"

namespace lockstep {
namespace {

/// The median of what all but `left_out` have; of two, their mean.
double median_without(const std::vector<double>& values, std::size_t left_out) {
  std::vector<double> others;
  for (std::size_t i = 0; i < values.size(); ++i)
    if (i != left_out) others.push_back(values[i]);
  std::sort(others.begin(), others.end());
  const std::size_t n = others.size();
  return n % 2 == 1 ? others[n / 2] : (others[n / 2 - 1] + others[n / 2]) / 2;
}

}  // namespace

StragglerWatch::StragglerWatch(double factor, std::vector<std::int64_t> slices,
                               std::vector<std::string> hosts)
    : factor_(factor),
      slices_(std::move(slices)),
      hosts_(std::move(hosts)),
      judged_(slices_.size()),
      told_(slices_.size(), -1) {
  require(hosts_.size() == slices_.size(), "StragglerWatch: a host for every rank");
}

std::optional<StragglerWatch::Slowness> StragglerWatch::slowest(std::span<const RankTimes> times,
                                                                bool by_median) const {
  std::vector<double> by_step, by_slice;
  for (std::size_t r = 0; r < times.size(); ++r) {
    const RankTimes& t = times[r];
    const StepTimes& part = by_median ? t.median : t.sum;
    by_step.push_back((part.load + part.compute) / (by_median ? 1 : t.steps));
    by_slice.push_back(by_step.back() / static_cast<double>(std::max<std::int64_t>(slices_[r], 1)));
  }
  std::optional<Slowness> worst;
  for (std::size_t r = 0; r < times.size(); ++r) {
    const double slice = median_without(by_slice, r), step = median_without(by_step, r);
    if (by_slice[r] <= factor_ * slice || by_step[r] <= factor_ * step) continue;
    const double whole = times[r].sum.step / times[r].steps;
    if (by_step[r] - step < whole / 10) continue;
    const double ratio = slice > 0 ? by_slice[r] / slice : factor_;
    if (!worst || by_step[r] - step > worst->own - worst->others)
      worst = Slowness{r, ratio, by_step[r], step, whole};
  }
  return worst;
}

std::vector<RankTimes> StragglerWatch::since_judged(std::span<const RankTimes> times) const {
  std::vector<RankTimes> since(times.begin(), times.end());
  for (std::size_t r = 0; r < since.size(); ++r) {
    const StepTimes& before = judged_[r].sum;
    since[r].steps -= judged_[r].steps;
    since[r].sum.step -= before.step;
    since[r].sum.load -= before.load;
    since[r].sum.compute -= before.compute;
    since[r].sum.wait -= before.wait;
  }
  return since;
}

std::optional<std::string> StragglerWatch::look(std::span<const RankTimes> times, double now) {
  require(times.size() == slices_.size(), "StragglerWatch::look: times of every rank");
  if (factor_ <= 0 || times.size() < 2) return std::nullopt;
  const std::vector<RankTimes> since = since_judged(times);
  if (since[0].steps < least_steps || since[0].sum.step < least_seconds) return std::nullopt;
  judged_.assign(times.begin(), times.end());
  const std::optional<Slowness> found = slowest(since, false);
  if (!found) {
    suspect_.reset();
    return std::nullopt;
  }
  bool lasts = suspect_ == found->rank;
  suspect_ = found->rank;
  if (!lasts && times[0].window >= least_steps) {
    const auto typical = slowest(times, true);
    lasts = typical && typical->rank == found->rank;
  }
  double& told = told_[found->rank];
  if (!lasts || (told >= 0 && now - told < repeat_seconds)) return std::nullopt;
  told = std::max(now, 0.0);
  return fmt::format(
      "rank {} on {} is slow and the others wait for it: in the last {:.0f} steps loading and computing took "
      "it "
      "{:.2f} ms of a step of {:.2f} ms, {:.1f} times the median of the others by the slice ({:.2f} ms by "
      "the "
      "step); look there for other processes, a slow disk, heat or lanes that share cores",
      found->rank, hosts_[found->rank], since[0].steps, found->own * 1e3, found->step * 1e3, found->times,
      found->others * 1e3);
}

}  // namespace lockstep
