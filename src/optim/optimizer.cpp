#include "optim/optimizer.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "core/error.h"
#include "core/numerics/tree.h"
#include "optim/rules/correct_bias.h"

namespace lockstep {
namespace {

FlatLayout ascending(const FlatLayout& layout) {
  FlatLayout out = layout;
  std::vector<FlatSegment>& segments = out.segments;
  std::sort(segments.begin(), segments.end(),
            [](const FlatSegment& a, const FlatSegment& b) { return a.storage.begin < b.storage.begin; });
  std::int64_t end = 0;
  for (const FlatSegment& s : segments) {
    require(s.storage.begin >= end && s.storage.end >= s.storage.begin, "segments of a flat layout overlap");
    end = s.storage.end;
  }
  require(end <= layout.elements, "a segment reaches past its flat layout");
  return out;
}

std::vector<Range> joined(std::span<const Range> ranges, std::int64_t elements) {
  std::vector<Range> sorted;
  std::copy_if(ranges.begin(), ranges.end(), std::back_inserter(sorted),
               [](Range r) { return r.size() > 0; });
  std::sort(sorted.begin(), sorted.end(), [](Range a, Range b) { return a.begin < b.begin; });
  std::vector<Range> out;
  for (const Range r : sorted) {
    require(r.begin >= (out.empty() ? 0 : out.back().end) && r.end <= elements,
            "the ranges of a shard overlap or reach past the flat buffer");
    if (!out.empty() && out.back().end == r.begin) {
      out.back().end = r.end;
    } else {
      out.push_back(r);
    }
  }
  return out;
}

/// `ranges` but for parameters that are not trained, and the padding behind them.
std::vector<Range> without_untrained(const std::vector<Range>& ranges,
                                     const std::vector<FlatSegment>& segments) {
  std::vector<Range> out;
  auto segment = segments.begin();
  for (Range rest : ranges) {
    for (; segment != segments.end() && segment->storage.begin < rest.end; ++segment) {
      if (segment->kind != FlatSegment::Kind::parameter || segment->trainable) continue;
      const auto next = segment + 1;
      const std::int64_t end =
          next == segments.end() ? std::numeric_limits<std::int64_t>::max() : next->storage.begin;
      const std::int64_t begin = std::max(rest.begin, segment->storage.begin);
      if (begin > rest.begin) out.push_back({rest.begin, begin});
      rest.begin = std::max(rest.begin, std::min(end, rest.end));
      if (end > rest.end) break;  // the next range may begin in this one
    }
    if (rest.size() > 0) out.push_back(rest);
  }
  return joined(out, std::numeric_limits<std::int64_t>::max());
}

/// The range of `ranges`, which ascend, that `range` lies in.
std::size_t place_in(const std::vector<Range>& ranges, Range range) {
  const auto after = std::upper_bound(ranges.begin(), ranges.end(), range.begin,
                                      [](std::int64_t e, Range r) { return e < r.end; });
  require(after != ranges.end() && after->begin <= range.begin && range.end <= after->end,
          "a range outside this rank's shard was given to the optimizer");
  return static_cast<std::size_t>(after - ranges.begin());
}

/// The first segment that ends after `element`.
std::vector<FlatSegment>::const_iterator first_reaching(const std::vector<FlatSegment>& segments,
                                                        std::int64_t element) {
  return std::upper_bound(segments.begin(), segments.end(), element,
                          [](std::int64_t e, const FlatSegment& s) { return e < s.storage.end; });
}

/// Calls body(piece, data) for the part of `totals` that is lane's: the views are cut at block edges into
/// pieces that hold whole runs of blocks, shared out in order and evenly.
template <class Body>
void for_share(std::span<const TotalView> totals, int lane, int lanes, Body&& body) {
  const auto blocks_of = [](Range r) {
    return r.size() <= 0 ? 0 : (r.end - 1) / block_elements - r.begin / block_elements + 1;
  };
  std::int64_t blocks = 0;
  for (const TotalView& view : totals) blocks += blocks_of(view.range);
  const std::int64_t from = blocks * lane / lanes;
  const std::int64_t to = blocks * (lane + 1) / lanes;
  std::int64_t before = 0;
  for (const TotalView& view : totals) {
    const std::int64_t count = blocks_of(view.range);
    const std::int64_t first = std::max(from - before, std::int64_t{0});
    const std::int64_t last = std::min(to - before, count);
    before += count;
    if (first >= last) continue;
    const std::int64_t block0 = view.range.begin / block_elements;
    const Range piece{std::max(view.range.begin, (block0 + first) * block_elements),
                      std::min(view.range.end, (block0 + last) * block_elements)};
    body(piece, view.data + (piece.begin - view.range.begin));
  }
}

}  // namespace

Optimizer::Optimizer(const OptimizerOptions& options, const FlatLayout& layout, std::span<const Range> shard)
    : options_(options),
      rule_(find_rule(options)),
      update_(optimizer_kernels::update_of(rule_)),
      measure_(optimizer_kernels::measure_of(rule_)),
      segments_(ascending(layout).segments),
      sets_(parameter_sets(options, ascending(layout))),
      norms_(segments_, layout.elements),
      owned_(joined(shard, layout.elements)),
      shard_(without_untrained(owned_, segments_)),
      elements_(layout.elements),
      state_names_(info_of(rule_).states.begin(), info_of(rule_).states.end()),
      factors_(sets_.sets.size()),
      trusts_(segments_.size(), 1.0f) {
  for (const Range r : shard_) {
    shard_offset_.push_back(state_elements_);
    state_elements_ += r.size();
  }
  state_ = HostBuffer(sizeof(float) * state_names_.size() * static_cast<std::size_t>(state_elements_));
}

void Optimizer::begin_step(const UpdateScalars& scalars) {
  const double t = static_cast<double>(scalars.step) + 1;
  require(scalars.step >= 0 && t < 9e15, "the step of an update is out of range");
  const bool shrinks = info_of(rule_).shrinks;
  for (std::size_t i = 0; i < factors_.size(); ++i) {
    const ParameterSet& set = sets_.sets[i];
    const double lr = scalars.lr * set.rate;
    UpdateFactors f;
    f.gradient = static_cast<float>(scalars.inverse_weight * scalars.clip_scale);
    f.mean = static_cast<float>(scalars.inverse_count);
    f.lr = static_cast<float>(lr);
    f.weight_decay = shrinks ? 0.0f : static_cast<float>(set.weight_decay);
    f.shrink = shrinks ? static_cast<float>(1 - lr * set.weight_decay) : 1.0f;
    f.momentum = static_cast<float>(options_.momentum);
    f.beta1 = static_cast<float>(options_.beta1);
    f.rest1 = static_cast<float>(1 - options_.beta1);
    f.beta2 = static_cast<float>(options_.beta2);
    f.rest2 = static_cast<float>(1 - options_.beta2);
    f.epsilon = static_cast<float>(options_.epsilon);
    correct_bias(f, lr, options_.beta1, options_.beta2, scalars.step);
    factors_[i] = f;
  }
}

std::int64_t Optimizer::state_offset(Range range) const {
  const std::size_t place = place_in(shard_, range);
  return shard_offset_[place] + (range.begin - shard_[place].begin);
}

void Optimizer::cut_for_state(std::span<const TotalView> totals, std::vector<TotalView>& pieces) const {
  pieces.clear();
  for (const TotalView& view : totals) {
    auto range = std::upper_bound(shard_.begin(), shard_.end(), view.range.begin,
                                  [](std::int64_t e, Range r) { return e < r.end; });
    for (; range != shard_.end() && range->begin < view.range.end; ++range) {
      const Range common{std::max(range->begin, view.range.begin), std::min(range->end, view.range.end)};
      if (common.size() > 0) pieces.push_back({common, view.data + (common.begin - view.range.begin)});
    }
  }
}

optimizer_kernels::Run Optimizer::run_of(Range run, const float* gradient, float* parameters) {
  optimizer_kernels::Run out{parameters + run.begin, gradient, {}, run.size()};
  if (state_names_.empty()) return out;
  const std::int64_t at = state_offset(run);
  for (std::size_t slot = 0; slot < state_names_.size(); ++slot)
    out.states[slot] = state_.as<float>().data() + static_cast<std::int64_t>(slot) * state_elements_ + at;
  return out;
}

void Optimizer::update_run(const FlatSegment& segment, std::size_t place, Range run, const float* gradient,
                           float* parameters) {
  const UpdateFactors& factors = factors_[static_cast<std::size_t>(sets_.of_segment[place])];
  if (segment.kind == FlatSegment::Kind::statistic) {
    optimizer_kernels::running_statistic(parameters + run.begin, gradient, run.size(),
                                         static_cast<float>(1 - segment.momentum),
                                         static_cast<float>(segment.momentum), factors.mean);
    return;
  }
  if (!segment.trainable) return;
  optimizer_kernels::Run elements = run_of(run, gradient, parameters);
  elements.trust = trusts_[place];
  update_(elements, factors);
}

void Optimizer::update(Range piece, const float* gradient, std::span<float> parameters) {
  if (piece.size() <= 0) return;
  require(static_cast<std::int64_t>(parameters.size()) >= elements_,
          "the flat parameters are shorter than their layout");
  (void)place_in(owned_, piece);
  for (auto s = first_reaching(segments_, piece.begin); s != segments_.end() && s->storage.begin < piece.end;
       ++s) {
    const Range run{std::max(piece.begin, s->storage.begin), std::min(piece.end, s->storage.end)};
    if (run.size() <= 0) continue;
    update_run(*s, static_cast<std::size_t>(s - segments_.begin()), run, gradient + (run.begin - piece.begin),
               parameters.data());
  }
}

void Optimizer::update_share(std::span<const TotalView> totals, std::span<float> parameters, int lane,
                             int lanes) {
  for_share(totals, lane, lanes, [&](Range piece, const float* data) { update(piece, data, parameters); });
}

void Optimizer::measure_share(std::span<const TotalView> totals, std::span<float> parameters,
                              std::span<double> sums, int lane, int lanes) {
  require(measure_ != nullptr && sums.size() == norms_.sums(),
          "measure_share: not of this optimizer's norms");
  const auto add = [](double a, double b) { return a + b; };
  for_share(totals, lane, lanes, [&](Range piece, const float* data) {
    const ParameterNorms::Numbers inside = norms_.pieces_in(piece);
    for (std::size_t k = inside.first; k < inside.last; ++k) {
      const auto& [range, segment] = norms_.pieces()[k];
      float measured[block_elements];
      const int set = sets_.of_segment[static_cast<std::size_t>(segment)];
      measure_(run_of(range, data + (range.begin - piece.begin), parameters.data()),
               factors_[static_cast<std::size_t>(set)], measured);
      double of_parameter[8] = {}, of_measured[8] = {};
      optimizer_kernels::add_squares(parameters.data(), 0, range.begin, range.end, of_parameter);
      optimizer_kernels::add_squares(measured, range.begin, range.begin, range.end, of_measured);
      sums[2 * k] = tree_sum(of_parameter, 8, add);
      sums[2 * k + 1] = tree_sum(of_measured, 8, add);
    }
  });
}

void Optimizer::take_norms(std::span<const double> sums) {
  for (std::size_t s = 0; s < segments_.size(); ++s) {
    const ParameterSet& set = sets_.sets[static_cast<std::size_t>(sets_.of_segment[s])];
    if (!segments_[s].is_trained() || !set.adapts) continue;
    const ParameterNorms::Norms norms = norms_.norms(static_cast<int>(s), sums);
    trusts_[s] = static_cast<float>(
        info_of(rule_).trust(norms.parameter, norms.measured, options_.trust, set.weight_decay));
  }
}

std::size_t Optimizer::state_index(std::size_t slot, Range range) const {
  require(slot < state_names_.size(), "the optimizer has no such state");
  return slot * static_cast<std::size_t>(state_elements_) + static_cast<std::size_t>(state_offset(range));
}

std::span<const float> Optimizer::state(std::size_t slot, Range range) const {
  if (range.size() <= 0) return {};
  return state_.as<float>().subspan(state_index(slot, range), static_cast<std::size_t>(range.size()));
}

std::span<float> Optimizer::state(std::size_t slot, Range range) {
  if (range.size() <= 0) return {};
  return state_.as<float>().subspan(state_index(slot, range), static_cast<std::size_t>(range.size()));
}

void Optimizer::sum_squares(std::span<const TotalView> totals, std::span<double> sums, int lane,
                            int lanes) const {
  for_share(totals, lane, lanes, [&](Range piece, const float* data) {
    auto segment = first_reaching(segments_, piece.begin);
    for (std::int64_t block = piece.begin / block_elements; block * block_elements < piece.end; ++block) {
      const Range whole{block * block_elements, std::min((block + 1) * block_elements, elements_)};
      require(whole.begin >= piece.begin && whole.end <= piece.end, "totals are not cut at block edges");
      double accumulators[8] = {};
      for (; segment != segments_.end() && segment->storage.begin < whole.end; ++segment) {
        const Range run{std::max(whole.begin, segment->storage.begin),
                        std::min(whole.end, segment->storage.end)};
        if (segment->is_trained() && run.size() > 0) {
          optimizer_kernels::add_squares(data, piece.begin, run.begin, run.end, accumulators);
        }
        if (segment->storage.end > whole.end) break;  // the next block goes on in this segment
      }
      sums[static_cast<std::size_t>(block)] =
          tree_sum(accumulators, 8, [](double a, double b) { return a + b; });
    }
  });
}

double gradient_norm(std::span<const double> sums, double inverse_weight) {
  if (sums.empty()) return 0;
  const double sum =
      tree_sum(sums.data(), static_cast<std::int64_t>(sums.size()), [](double a, double b) { return a + b; });
  return std::sqrt(sum) * inverse_weight;
}

double clip_scale(double norm, double max_norm) {
  if (max_norm == 0) return 1;
  const double scale = max_norm / (norm + 1e-6);
  return scale > 1 ? 1 : scale;  // NaN stays NaN
}

}  // namespace lockstep
