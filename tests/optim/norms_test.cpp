// Optimizer rules that go by the norms of parameters: against float64, and the same bits however the flat
// buffers are cut and shared out, also by the functions that a GPU runs.

#include <algorithm>
#include <array>

#include "optim/device_optimizer.h"
#include "optim/test_support.h"

namespace lockstep {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

/// example_layout() with a parameter that is all zeros and one of one dimension.
FlatLayout layout_of_norms() {
  FlatLayout layout = example_layout();
  layout.segments[0].shape = Shape{5003, 1};
  layout.segments[2].shape = Shape{6400, 1};
  FlatSegment zeros;
  zeros.name = "zeros";
  zeros.shape = Shape{40, 1};
  zeros.storage = {12416, 12456};
  FlatSegment bias;
  bias.name = "bias";
  bias.shape = Shape{30};
  bias.storage = {12464, 12494};
  layout.segments.push_back(zeros);
  layout.segments.push_back(bias);
  layout.elements = 12496;
  return layout;
}

/// Numbers in the segments, zeros in the padding between them.
std::vector<float> numbers_of_segments(std::uint64_t stream) {
  const FlatLayout layout = layout_of_norms();
  std::vector<float> out(static_cast<std::size_t>(layout.elements));
  for (const FlatSegment& s : layout.segments)
    for (std::int64_t i = s.storage.begin; i < s.storage.end; ++i)
      out[static_cast<std::size_t>(i)] = number(stream, i);
  return out;
}

std::vector<float> start() {
  std::vector<float> p = numbers_of_segments(1);
  std::fill(p.begin() + 12416, p.begin() + 12456, 0.0f);
  return p;
}
std::vector<float> gradient_of(std::int64_t step) {
  return numbers_of_segments(100 + static_cast<std::uint64_t>(step));
}

std::vector<OptimizerOptions> kinds() {
  std::vector<OptimizerOptions> out;
  for (const std::string name : {"lars", "lamb"})
    for (const bool decay_norms : {true, false}) {
      OptimizerOptions o = options_of(name);
      o.weight_decay = 0.1;
      o.decay_norms = decay_norms;
      if (name == "lars") {
        o.momentum = 0.9;
        o.trust = 0.02;
      } else {
        o.epsilon = 1e-3;
      }
      out.push_back(o);
    }
  return out;
}

/// Steps of an optimizer that owns `shards`, one for each rank, whose sums are brought together.
std::vector<float> trained(const OptimizerOptions& options, const std::vector<std::vector<Range>>& shards,
                           int lanes) {
  const FlatLayout layout = layout_of_norms();
  std::vector<float> parameters = start();
  std::vector<Optimizer> ranks;
  for (const auto& shard : shards) ranks.emplace_back(options, layout, shard);
  for (std::int64_t step = 0; step < test_steps; ++step) {
    const std::vector<float> gradient = gradient_of(step);
    std::vector<double> sums(ranks[0].norms().sums(), std::nan(""));
    const auto views_of_rank = [&](std::size_t r) {
      std::vector<TotalView> views;
      for (const Range range : shards[r]) views.push_back({range, gradient.data() + range.begin});
      return views;
    };
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      ranks[r].begin_step(scalars_of(step));
      std::vector<double> own(sums.size(), std::nan(""));
      for (int lane = lanes; lane-- > 0;)
        ranks[r].measure_share(views_of_rank(r), parameters, own, lane, lanes);
      for (const std::int64_t k : ranks[r].norms().sums_in(shards[r]))
        sums[static_cast<std::size_t>(k)] = own[static_cast<std::size_t>(k)];
    }
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      ranks[r].take_norms(sums);
      for (int lane = lanes; lane-- > 0;) ranks[r].update_share(views_of_rank(r), parameters, lane, lanes);
    }
  }
  return parameters;
}

std::vector<std::vector<Range>> whole() {
  return {{{0, layout_of_norms().elements}}};
}

/// You et al. 2017, algorithm 1, and You et al. 2020, algorithm 2, read line by line, in float64.
std::vector<double> reference_of(const OptimizerOptions& o) {
  const FlatLayout layout = layout_of_norms();
  const std::vector<float> begin = start();
  std::vector<double> p(begin.begin(), begin.end()), m(p.size()), v(p.size()), u(p.size());
  for (std::int64_t step = 0; step < test_steps; ++step) {
    const UpdateScalars s = scalars_of(step);
    const std::vector<float> sums = gradient_of(step);
    const auto t = static_cast<double>(step + 1);
    for (const FlatSegment& segment : layout.segments) {
      const bool adapts = o.decay_norms || segment.shape.rank() != 1;
      const double decay = adapts ? o.weight_decay : 0;
      double norm_p = 0, norm_u = 0;
      for (auto i = static_cast<std::size_t>(segment.storage.begin);
           i < static_cast<std::size_t>(segment.storage.end); ++i) {
        const double g = sums[i] * inverse_count * s.clip_scale;
        if (segment.kind == FlatSegment::Kind::statistic) {
          p[i] = (1 - segment.momentum) * p[i] + segment.momentum * (sums[i] * inverse_count);
          continue;
        }
        norm_p += p[i] * p[i];
        if (o.name == "lars") {
          u[i] = g;
        } else {
          m[i] = o.beta1 * m[i] + (1 - o.beta1) * g;
          v[i] = o.beta2 * v[i] + (1 - o.beta2) * g * g;
          u[i] =
              m[i] / (1 - std::pow(o.beta1, t)) / (std::sqrt(v[i] / (1 - std::pow(o.beta2, t))) + o.epsilon) +
              decay * p[i];
        }
        norm_u += u[i] * u[i];
      }
      if (segment.kind == FlatSegment::Kind::statistic) continue;
      norm_p = std::sqrt(norm_p);
      norm_u = std::sqrt(norm_u);
      double trust = 1;
      if (adapts && norm_p > 0 && norm_u > 0)
        trust = o.name == "lars" ? o.trust * norm_p / (norm_u + decay * norm_p) : norm_p / norm_u;
      for (auto i = static_cast<std::size_t>(segment.storage.begin);
           i < static_cast<std::size_t>(segment.storage.end); ++i) {
        if (o.name == "lars") {
          v[i] = o.momentum * v[i] + s.lr * trust * (u[i] + decay * p[i]) / s.lr;
          p[i] -= s.lr * v[i];
        } else {
          p[i] -= s.lr * trust * u[i];
        }
      }
    }
  }
  return p;
}

TEST(OptimizerNorms, FollowTheFloat64Reference) {
  for (const OptimizerOptions& o : kinds()) {
    const std::vector<float> got = trained(o, whole(), 1);
    const std::vector<double> want = reference_of(o);
    const std::vector<float> begin = start();
    double worst = 0;
    for (const FlatSegment& segment : layout_of_norms().segments) {
      double moved = 0;
      for (auto i = static_cast<std::size_t>(segment.storage.begin);
           i < static_cast<std::size_t>(segment.storage.end); ++i) {
        ASSERT_TRUE(std::isfinite(got[i]));
        worst = std::max(worst, std::abs(static_cast<double>(got[i]) - want[i]));
        moved = std::max(moved, std::abs(static_cast<double>(got[i]) - static_cast<double>(begin[i])));
      }
      EXPECT_GT(moved, 100 * tolerance) << describe(o) << " " << segment.name;
    }
    EXPECT_LT(worst, tolerance) << describe(o);
  }
}

TEST(OptimizerNorms, SameBitsOnAnyShardsAndLanes) {
  const std::int64_t end = layout_of_norms().elements, block = block_elements;
  const std::vector<std::vector<Range>> two = {{{0, block}, {2 * block, 3 * block}},
                                               {{block, 2 * block}, {3 * block, end}}};
  const std::vector<std::vector<Range>> three = {
      {{3 * block, end}}, {{0, 2 * block}}, {{2 * block, 3 * block}}};
  for (const OptimizerOptions& o : kinds()) {
    const std::vector<float> want = trained(o, whole(), 1);
    for (int lanes = 1; lanes <= 3; ++lanes) {
      EXPECT_TRUE(same_bits(want, trained(o, whole(), lanes))) << describe(o);
      EXPECT_TRUE(same_bits(want, trained(o, two, lanes))) << describe(o);
      EXPECT_TRUE(same_bits(want, trained(o, three, lanes))) << describe(o);
    }
    OptimizerOptions other = o;
    other.weight_decay = 0.2;
    EXPECT_FALSE(same_bits(want, trained(other, whole(), 1))) << "the comparison must be able to fail";
  }
}

// The sums of squares of a device's functions are the CPU's, bit by bit, and so are parameters and state.
TEST(OptimizerNorms, ADeviceMeasuresTheBitsOfTheCpu) {
  const FlatLayout layout = layout_of_norms();
  const Range all{0, layout.elements};
  for (const OptimizerOptions& o : kinds()) {
    Optimizer cpu(o, layout, {&all, 1});
    std::vector<float> wanted = start(), got = wanted;
    std::vector<std::vector<float>> state(2, std::vector<float>(got.size()));
    const std::vector<cuda::GranuleKind> kinds_of_granules = granule_kinds(layout, o);
    std::vector<Range> pieces;
    for (const auto& piece : cpu.norms().pieces()) pieces.push_back(piece.range);
    for (std::int64_t step = 0; step < 3; ++step) {
      const std::vector<float> gradient = gradient_of(step);
      const TotalView view{all, gradient.data()};
      cpu.begin_step(scalars_of(step));
      const cuda::StepScalars scalars = device_scalars(cpu, scalars_of(step), o, step);
      std::vector<double> sums(cpu.norms().sums()), found(sums.size()),
          parts(sums.size() * cuda::block_parts);
      cpu.measure_share({&view, 1}, wanted, sums, 0, 1);
      with_rule(find_rule(o), [&](auto rule) {
        using Rule = decltype(rule);
        if constexpr (Rule::need == rules::Need::norms) {
          const cuda::MeasurePiece<Rule> measure{got.data(),
                                                 gradient.data(),
                                                 {state[0].data(), state[1].data()},
                                                 kinds_of_granules.data(),
                                                 &scalars,
                                                 pieces.data(),
                                                 parts.data(),
                                                 0};
          for (std::size_t i = 0; i < pieces.size() * cuda::block_parts; ++i)
            measure(static_cast<std::int64_t>(i));
        }
      });
      const cuda::SumOfBlock sum{parts.data(), found.data()};
      for (std::size_t i = 0; i < sums.size(); ++i) sum(static_cast<std::int64_t>(i));
      ASSERT_EQ(sums, found) << describe(o);
      cpu.take_norms(sums);
      cpu.update(all, gradient.data(), wanted);
      with_rule(find_rule(o), [&](auto rule) {
        const cuda::OptimizerUpdate<decltype(rule)> update{got.data(),
                                                           gradient.data(),
                                                           {state[0].data(), state[1].data()},
                                                           kinds_of_granules.data(),
                                                           &scalars,
                                                           nullptr,
                                                           nullptr,
                                                           0,
                                                           cpu.trusts().data()};
        for (std::int64_t i = 0; i < layout.elements; ++i) update(i);
      });
      ASSERT_TRUE(same_bits(got, wanted)) << describe(o) << " step " << step;
    }
    for (std::size_t slot = 0; slot < cpu.state_names().size(); ++slot) {
      const auto own = cpu.state(slot, all);
      EXPECT_EQ(0, std::memcmp(own.data(), state[slot].data(), own.size_bytes()));
    }
  }
}

}  // namespace
}  // namespace lockstep
