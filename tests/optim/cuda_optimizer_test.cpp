// The GPU's optimizer step and gradient norm, which are functions for host and device, against the CPU's: bit
// for bit.

#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <vector>

#include "core/numerics/philox.h"
#include "optim/cuda/work_optimizer.h"
#include "optim/device_optimizer.h"
#include "optim/optimizer.h"
#include "trainer/config/config.h"

namespace lockstep {
namespace {

float number(std::uint64_t stream, std::int64_t i) {
  const PhiloxKey key = random_key(7, Purpose::synthetic, stream, 0);
  return 2 * uniform01(random_block(key, static_cast<std::uint64_t>(i), 0).v[0]) - 1;
}

/// Matrices, vectors and statistics over four blocks, none of a whole number of granules.
FlatLayout layout_of_test() {
  FlatLayout layout;
  const auto add = [&](FlatSegment::Kind kind, const Shape& shape, double momentum) {
    FlatSegment s;
    s.kind = kind;
    s.shape = shape;
    s.storage = {layout.elements, layout.elements + shape.elements()};
    s.momentum = momentum;
    layout.elements = (s.storage.end + 15) / 16 * 16;
    layout.segments.push_back(s);
  };
  add(FlatSegment::Kind::parameter, {71, 61}, 0);
  add(FlatSegment::Kind::parameter, {71}, 0);
  add(FlatSegment::Kind::statistic, {301}, 0.1);
  add(FlatSegment::Kind::statistic, {301}, 0.03);
  add(FlatSegment::Kind::parameter, {301}, 0);
  add(FlatSegment::Kind::parameter, {7, 3, 13, 37}, 0);
  return layout;
}

std::vector<float> numbers(const FlatLayout& layout, std::uint64_t stream) {
  std::vector<float> out(static_cast<std::size_t>(layout.elements));
  for (const FlatSegment& s : layout.segments)
    for (std::int64_t i = s.storage.begin; i < s.storage.end; ++i)
      out[static_cast<std::size_t>(i)] = number(stream, i);
  return out;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class CudaOptimizer : public testing::TestWithParam<std::tuple<std::string, bool, bool>> {};

TEST_P(CudaOptimizer, GivesTheBitsOfTheCpu) {
  const auto& [rule, decay_norms, clip] = GetParam();
  const FlatLayout layout = layout_of_test();
  OptimizerOptions options;
  options.name = rule == "nesterov" || rule == "momentum" ? "sgd"
                 : rule == "rmsprop_momentum"             ? "rmsprop"
                                                          : rule;
  options.momentum = options.name == rule ? 0.0 : 0.9;
  options.nesterov = rule == "nesterov";
  options.weight_decay = 0.03;
  options.decay_norms = decay_norms;
  // Two ranges of a shard, as a rank of several has them.
  const std::vector<Range> shard = {{0, 2 * block_elements}, {3 * block_elements, layout.elements}};
  Optimizer cpu(options, layout, shard);
  std::vector<float> wanted = numbers(layout, 1), got = wanted;
  const std::vector<cuda::GranuleKind> kinds = granule_kinds(layout, options);
  std::vector<std::vector<float>> first, second;
  for (const Range& range : shard) {
    first.emplace_back(static_cast<std::size_t>(range.size()));
    second.emplace_back(static_cast<std::size_t>(range.size()));
  }
  for (std::int64_t step = 0; step < 5; ++step) {
    const std::vector<float> gradient = numbers(layout, static_cast<std::uint64_t>(10 + step));
    const UpdateScalars scalars{0.02 / static_cast<double>(step + 1), 1.0 / 96, clip ? 0.75 : 1.0, step,
                                1.0 / 96};
    cpu.begin_step(scalars);
    const cuda::StepScalars factors = device_scalars(cpu, scalars, options, step);
    const float clip_factor = factors.sets[0].gradient, skip = 0;
    for (std::size_t r = 0; r < shard.size(); ++r) {
      const Range range = shard[r];
      cpu.update(range, gradient.data() + range.begin, wanted);
      with_rule(find_rule(options), [&](auto formula) {
        const cuda::OptimizerUpdate<decltype(formula)> work{got.data(),
                                                            gradient.data() + range.begin,
                                                            {first[r].data(), second[r].data()},
                                                            kinds.data(),
                                                            &factors,
                                                            clip ? &clip_factor : nullptr,
                                                            &skip,
                                                            range.begin};
        for (std::int64_t i = range.size() - 1; i >= 0; --i) work(i);
      });
    }
    ASSERT_TRUE(same_bits(got, wanted)) << rule << " step " << step;
  }
  EXPECT_FALSE(same_bits(got, numbers(layout, 1)));
  if (!cpu.state_names().empty())
    for (std::size_t r = 0; r < shard.size(); ++r) {
      const auto state = cpu.state(0, shard[r]);
      EXPECT_EQ(0, std::memcmp(state.data(), first[r].data(), state.size_bytes()));
    }
}

INSTANTIATE_TEST_SUITE_P(Rules, CudaOptimizer,
                         testing::Combine(testing::Values("sgd", "momentum", "nesterov", "adam", "adamw",
                                                          "rmsprop", "rmsprop_momentum", "adagrad", "lion"),
                                          testing::Bool(), testing::Bool()),
                         [](const auto& test) {
                           return std::get<0>(test.param) + (std::get<1>(test.param) ? "" : "_norms_kept") +
                                  (std::get<2>(test.param) ? "_clipped" : "");
                         });

TEST(CudaOptimizerStep, ASkippedStepChangesNothing) {
  const FlatLayout layout = layout_of_test();
  OptimizerOptions options;
  options.name = "adam";
  const std::vector<cuda::GranuleKind> kinds = granule_kinds(layout, options);
  std::vector<float> parameters = numbers(layout, 1), first(parameters.size()), second(parameters.size());
  const std::vector<float> before = parameters, gradient = numbers(layout, 2);
  cuda::StepScalars scalars;
  UpdateFactors& factors = scalars.sets[0];
  factors.gradient = factors.mean = factors.step_size = factors.rest1 = factors.rest2 = 1;
  const float skip = 1;
  const cuda::OptimizerUpdate<rules::Adam> work{parameters.data(),
                                                gradient.data(),
                                                {first.data(), second.data()},
                                                kinds.data(),
                                                &scalars,
                                                nullptr,
                                                &skip,
                                                0};
  for (std::int64_t i = 0; i < layout.elements; ++i) work(i);
  EXPECT_TRUE(same_bits(parameters, before));
  EXPECT_TRUE(same_bits(first, std::vector<float>(first.size())));
}

/// The sums of all blocks of `gradient`, as the device makes them.
std::vector<double> block_sums(const std::vector<float>& gradient, const FlatLayout& layout,
                               bool all_finite) {
  const std::vector<cuda::GranuleKind> kinds = granule_kinds(layout, {});
  const std::int64_t blocks = (layout.elements + block_elements - 1) / block_elements;
  std::vector<double> parts(static_cast<std::size_t>(blocks * cuda::block_parts)),
      sums(static_cast<std::size_t>(blocks));
  const cuda::SquaresOfBlock squares{gradient.data(), parts.data(), kinds.data(), 0,
                                     layout.elements, all_finite};
  for (std::int64_t i = 0; i < blocks * cuda::block_parts; ++i) squares(i);
  const cuda::SumOfBlock sum{parts.data(), sums.data()};
  for (std::int64_t i = 0; i < blocks; ++i) sum(i);
  return sums;
}

TEST(CudaGradientNorm, GivesTheBitsOfTheCpu) {
  const FlatLayout layout = layout_of_test();
  const Range all{0, layout.elements};
  const Optimizer cpu(OptimizerOptions{}, layout, {&all, 1});
  std::vector<float> gradient = numbers(layout, 3);
  // Of so different sizes that the order of the sums shows.
  for (std::size_t e = 0; e < gradient.size(); ++e)
    gradient[e] = std::ldexp(gradient[e], static_cast<int>(e * 7 % 61) - 30);
  const std::int64_t blocks = (layout.elements + block_elements - 1) / block_elements;
  std::vector<double> wanted(static_cast<std::size_t>(blocks));
  const TotalView view{all, gradient.data()};
  cpu.sum_squares({&view, 1}, wanted);
  EXPECT_EQ(wanted, block_sums(gradient, layout, false));
}

// On an optimizer's sums a statistic that is not finite leaves no trace; a device that decides alone sees it.
TEST(CudaGradientNorm, AStatisticThatIsNotFiniteShowsWhereItIsAskedFor) {
  const FlatLayout layout = layout_of_test();
  std::vector<float> gradient = numbers(layout, 3);
  const auto blocks = static_cast<std::size_t>((layout.elements + block_elements - 1) / block_elements);
  const auto sums = [&](bool all_finite) { return block_sums(gradient, layout, all_finite); };
  const std::vector<double> wanted = sums(false);
  EXPECT_EQ(sums(true), wanted);
  const auto at = static_cast<std::size_t>(layout.segments[2].storage.begin + 5);
  const std::size_t block = at / static_cast<std::size_t>(block_elements);
  for (const float bad : {INFINITY, -INFINITY, NAN}) {
    gradient[at] = bad;
    EXPECT_EQ(sums(false), wanted);
    const std::vector<double> got = sums(true);
    for (std::size_t b = 0; b < blocks; ++b) EXPECT_EQ(std::isnan(got[b]), b == block) << bad;
  }
}

// Groups of 32, level by level, are the canonical tree.
TEST(CudaGradientNorm, LevelsAreTheCanonicalTree) {
  for (std::int64_t n = 1; n <= 2300; n += n < 140 ? 1 : 37) {
    std::vector<double> values;
    for (std::int64_t i = 0; i < n; ++i)
      values.push_back(std::pow(10.0, static_cast<double>(number(5, i)) * 9));
    const double wanted = tree_sum(values.data(), n, [](double a, double b) { return a + b; });
    std::vector<double> other(values.size());
    for (std::int64_t left = n; left > 1;) {
      const cuda::TreeOfGroup level{values.data(), other.data(), left};
      left = (left + cuda::tree_leaves - 1) / cuda::tree_leaves;
      for (std::int64_t i = 0; i < left; ++i) level(i);
      values.swap(other);
    }
    EXPECT_EQ(values[0], wanted) << n;
  }
}

TEST(CudaGradientNorm, TheDecisionIsThatOfTheCpu) {
  for (const double squares : {0.0, 1e-12, 4.0, 1e6, 1e300})
    for (const double limit : {0.0, 0.5, 10.0}) {
      cuda::StepDecision decision{-1, -1, -1, 0};
      cuda::StepScalars scalars{{}, 1.0 / 64};
      cuda::DecideStep{&squares, &decision, &scalars, limit}(0);
      const double wanted = gradient_norm(std::span(&squares, 1), 1.0 / 64);
      EXPECT_EQ(decision.norm, wanted);
      EXPECT_EQ(decision.clip, static_cast<float>(1.0 / 64 * clip_scale(wanted, limit)));
      EXPECT_EQ(decision.skip, 0.0f);
      EXPECT_EQ(scalars.sets[0].step_size, 0.0f);  // left to the host, which knows the number of updates
    }
  for (const double squares : {INFINITY, NAN}) {
    cuda::StepDecision decision;
    cuda::StepScalars scalars;
    cuda::DecideStep{&squares, &decision, &scalars, 1.0}(0);
    EXPECT_EQ(decision.skip, cuda::step_refused);
    // What was enqueued behind it is void, finite or not, until the host resumes.
    for (const double later : {squares, 4.0}) {
      cuda::DecideStep{&later, &decision, &scalars, 1.0}(0);
      EXPECT_EQ(decision.skip, cuda::step_void);
    }
    decision.halted = 0;
    const double good = 4.0;
    cuda::DecideStep{&good, &decision, &scalars, 1.0}(0);
    EXPECT_EQ(decision.skip, cuda::step_applied);
  }
}

// The scale of the loss and Adam's factors after any history, by the device alone, as the host has them that
// knows every outcome.
TEST(CudaLossScale, TheDeviceDecidesAsTheHost) {
  const FlatLayout layout = layout_of_test();
  OptimizerOptions options;
  options.name = "adam";
  Optimizer cpu(options, layout, {});
  LossScaleOptions scaling;
  scaling.interval = 5;
  scaling.smallest = 4;
  scaling.largest = 64;
  LossScale wanted{16, 3, 2};
  const double good = 4.0;
  cuda::StepDecision decision;
  cuda::SetLossScale{&decision.loss_scale, wanted}(0);
  int applied = 0, overflowed = 0, refused = 0;
  for (std::int64_t step = 2; step < 4000; ++step) {
    // Runs of good and of bad steps, that reach both ends.
    const bool bad = number(static_cast<std::uint64_t>(step / 40), step) > (step / 40 % 2 ? 0.1f : 0.95f);
    const double squares = !bad ? good : step % 2 ? INFINITY : NAN;
    const double lr = 0.1 / static_cast<double>(1 + step % 7);
    const UpdateScalars in_truth{lr, 1.0 / 96, 1, step - wanted.skipped, 1.0 / 96};
    cpu.begin_step(in_truth);
    const UpdateFactors truth = cpu.factors()[0];
    // The host does not know of the steps in flight that overflowed.
    cpu.begin_step({lr, 1.0 / 96, 1, step, 1.0 / 96});
    cuda::StepScalars scalars = device_scalars(cpu, {lr, 1.0 / 96, 1, step, 1.0 / 96}, options, step);
    cuda::DecideStep{&squares, &decision, &scalars, 0, true, scaling}(0);
    if (!bad) {
      ASSERT_EQ(decision.skip, cuda::step_applied);
      wanted = next_loss_scale(wanted, false, scaling);
      ASSERT_EQ(0, std::memcmp(&scalars.sets[0], &truth, sizeof truth)) << step;
      ++applied;
    } else if (wanted.scale > scaling.smallest) {
      ASSERT_EQ(decision.skip, cuda::step_overflowed);
      wanted = next_loss_scale(wanted, true, scaling);
      ++overflowed;
    } else {
      ASSERT_EQ(decision.skip, cuda::step_refused);
      for (const double later : {squares, good}) {
        cuda::DecideStep{&later, &decision, &scalars, 0, true, scaling}(0);
        ASSERT_EQ(decision.skip, cuda::step_void);
        ASSERT_EQ(decision.loss_scale, wanted);
      }
      decision.halted = 0;
      ++refused;
    }
    ASSERT_EQ(decision.loss_scale, wanted) << step;
    ASSERT_EQ(decision.halted, 0.0f);
  }
  EXPECT_GT(applied, 1000);
  EXPECT_GT(overflowed, 100);
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace lockstep
