#include "optim/test_support.h"

namespace lockstep {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

TEST(Optimizer, FollowsTheFloat64Reference) {
  for (const OptimizerOptions& o : all_kinds()) {
    const std::vector<float> got = train(o);
    const std::vector<double> want = reference(o);
    const std::vector<float> start = numbers(1, static_cast<std::int64_t>(got.size()));
    double worst = 0;
    double moved = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      ASSERT_TRUE(std::isfinite(got[i]));
      worst = std::max(worst, std::abs(static_cast<double>(got[i]) - want[i]));
      moved = std::max(moved, std::abs(static_cast<double>(got[i]) - static_cast<double>(start[i])));
    }
    EXPECT_LT(worst, tolerance) << describe(o);
    EXPECT_GT(moved, 100 * tolerance) << describe(o) << ": the test must be able to fail";
  }
}

TEST(Optimizer, FirstStepsByHand) {
  FlatLayout layout;
  FlatSegment s;
  s.storage = {0, 1};
  layout.segments = {s};
  layout.elements = 16;
  const Range all{0, 16};
  const float gradient[16] = {4.0f};
  const auto two_steps = [&](const OptimizerOptions& o) {
    Optimizer optimizer(o, layout, {&all, 1});
    std::vector<float> p(16, 1.0f);
    for (std::int64_t step = 0; step < 2; ++step) {
      optimizer.begin_step({0.5, 0.25, 1.0, step});  // the mean gradient is 1
      optimizer.update(all, gradient, p);
    }
    EXPECT_EQ(p[1], 1.0f) << "padding is left alone";
    return p[0];
  };
  OptimizerOptions o = options_of("sgd");
  EXPECT_EQ(two_steps(o), 0.0f);  // 1 - 0.5 - 0.5
  o.momentum = 0.5;
  EXPECT_EQ(two_steps(o), -0.25f);  // v = 1, 1.5: 1 - 0.5 - 0.75
  o.nesterov = true;
  EXPECT_EQ(two_steps(o), -0.625f);  // 1 + 0.5 * 1 = 1.5, then 1 + 0.5 * 1.5 = 1.75
  o = options_of("adam");
  EXPECT_NEAR(two_steps(o), 0.0f, 1e-6);  // a constant gradient: every step is lr
  o = options_of("adamw");
  o.weight_decay = 0.1;
  // p = 1 * 0.95 - 0.5 = 0.45, then 0.45 * 0.95 - 0.5
  EXPECT_NEAR(two_steps(o), 0.45f * 0.95f - 0.5f, 1e-6);
}

TEST(Optimizer, SameBitsHoweverThePiecesAreCut) {
  for (const OptimizerOptions& o : all_kinds()) {
    const std::vector<float> whole = train(o);
    for (const std::vector<std::int64_t>& cuts :
         {std::vector<std::int64_t>{1}, {2}, {3}, {1, 2}, {1, 3}, {2, 3}, {1, 2, 3}}) {
      EXPECT_TRUE(same_bits(whole, train(o, cuts))) << describe(o);
    }
    OptimizerOptions other = o;
    other.weight_decay += 0.25;
    EXPECT_FALSE(same_bits(whole, train(other, {1, 2, 3}))) << "the comparison must be able to fail";
  }
}

TEST(Optimizer, SameBitsOnAnyNumberOfLanes) {
  for (const OptimizerOptions& o : all_kinds()) {
    const std::vector<float> one = train(o, {1, 3}, 1);
    for (int lanes = 2; lanes <= 6; ++lanes)
      EXPECT_TRUE(same_bits(one, train(o, {1, 3}, lanes))) << describe(o);
  }
}

TEST(Optimizer, LanesMayRunSideBySide) {
  const FlatLayout layout = example_layout();
  const Range all{0, layout.elements};
  Optimizer optimizer(options_of("adam"), layout, {&all, 1});
  std::vector<float> parameters = numbers(1, layout.elements);
  for (std::int64_t step = 0; step < test_steps; ++step) {
    const std::vector<float> gradient = numbers(100 + static_cast<std::uint64_t>(step), layout.elements);
    const auto views = views_of(gradient, {2});
    optimizer.begin_step(scalars_of(step));
    std::vector<std::thread> threads;
    for (int lane = 0; lane < 3; ++lane) {
      threads.emplace_back([&, lane] { optimizer.update_share(views, parameters, lane, 3); });
    }
    for (std::thread& t : threads) t.join();
  }
  EXPECT_TRUE(same_bits(parameters, train(options_of("adam"))));
}

TEST(Optimizer, ElementsAtAnyOffsetOfALoopGetTheSameBits) {
  // Vector loops treat the first and last elements apart: the same element, alone, must come out the same.
  const std::vector<float> gradient = numbers(5, 100);
  for (const OptimizerOptions& o : all_kinds()) {
    FlatLayout layout;
    FlatSegment s;
    s.storage = {0, 100};
    layout.segments = {s};
    layout.elements = 112;
    const Range all{0, 112};
    Optimizer together(o, layout, {&all, 1}), alone(o, layout, {&all, 1});
    std::vector<float> a = numbers(6, 112), b = a;
    for (std::int64_t step = 0; step < 3; ++step) {
      together.begin_step(scalars_of(step));
      alone.begin_step(scalars_of(step));
      together.update({0, 100}, gradient.data(), a);
      for (std::int64_t i = 0; i < 100; ++i) alone.update({i, i + 1}, gradient.data() + i, b);
    }
    EXPECT_TRUE(same_bits(a, b)) << describe(o);
  }
}

TEST(Optimizer, EveryInstructionSetRoundsAlike) {
  // The same float operations in a plain loop, compiled for the baseline instruction set: a fused
  // multiply-add or an approximate division in the variant that this machine picks would show.
  constexpr std::int64_t n = 3001;
  const std::vector<float> gradient = numbers(8, n);
  std::vector<float> p = numbers(9, n), m = numbers(10, n), v = numbers(11, n);
  for (float& x : v) x = std::abs(x);
  std::vector<float> p2 = p, m2 = m, v2 = v;
  UpdateFactors f;
  f.gradient = 0.0123f;
  f.weight_decay = 0.1f;
  f.shrink = 0.999f;
  f.beta1 = 0.9f;
  f.rest1 = 0.1f;
  f.beta2 = 0.999f;
  f.rest2 = 0.001f;
  f.step_size = 0.037f;
  f.root_correction = 0.77f;
  f.epsilon = 1e-8f;
  optimizer_kernels::update_of(find_rule(options_of("adam")))(
      {p.data(), gradient.data(), {m.data(), v.data()}, n}, f);
  for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
    const float g = gradient[i] * f.gradient + f.weight_decay * p2[i];
    m2[i] = f.beta1 * m2[i] + f.rest1 * g;
    v2[i] = f.beta2 * v2[i] + f.rest2 * (g * g);
    p2[i] = p2[i] * f.shrink - f.step_size * (m2[i] / (std::sqrt(v2[i]) / f.root_correction + f.epsilon));
  }
  EXPECT_TRUE(same_bits(p, p2));
  EXPECT_TRUE(same_bits(m, m2));
  EXPECT_TRUE(same_bits(v, v2));
}

TEST(Optimizer, ShardsTogetherAreTheWhole) {
  const FlatLayout layout = example_layout();
  // Two buckets of two blocks each, three ranks: rank 2 has nothing in the first, rank 0 two pieces.
  const std::vector<std::vector<Range>> shards = {
      {{2 * block_elements, 3 * block_elements}, {0, block_elements}},
      {{block_elements, 2 * block_elements}},
      {{3 * block_elements, layout.elements}}};
  for (const OptimizerOptions& o : all_kinds()) {
    std::vector<float> parameters = numbers(1, layout.elements);
    std::vector<Optimizer> ranks;
    for (const auto& shard : shards) ranks.emplace_back(o, layout, shard);
    std::int64_t state = 0;
    for (const Optimizer& rank : ranks) state += rank.state_elements();
    EXPECT_EQ(state, layout.elements) << "each element's state is on exactly one rank";
    for (std::int64_t step = 0; step < test_steps; ++step) {
      const std::vector<float> gradient = numbers(100 + static_cast<std::uint64_t>(step), layout.elements);
      for (std::size_t r = 0; r < ranks.size(); ++r) {
        std::vector<TotalView> views;
        for (const Range range : shards[r]) views.push_back({range, gradient.data() + range.begin});
        ranks[r].begin_step(scalars_of(step));
        for (int lane = 0; lane < 2; ++lane) ranks[r].update_share(views, parameters, lane, 2);
      }
    }
    EXPECT_TRUE(same_bits(parameters, train(o))) << describe(o);
  }
}

TEST(Optimizer, ARankWithoutAShardDoesNothing) {
  Optimizer optimizer(options_of("adam"), example_layout(), {});
  std::vector<float> parameters = numbers(1, 12416);
  const std::vector<float> before = parameters;
  optimizer.begin_step(scalars_of(0));
  optimizer.update_share({}, parameters, 0, 1);
  EXPECT_TRUE(same_bits(before, parameters));
  EXPECT_EQ(optimizer.state_elements(), 0);
  EXPECT_TRUE(optimizer.shard().empty());
}

TEST(Optimizer, RefusesWhatIsNotItsShard) {
  const std::vector<Range> shard = {{0, block_elements}};
  Optimizer optimizer(options_of("adam"), example_layout(), shard);
  std::vector<float> parameters(12416), gradient(12416);
  optimizer.begin_step(scalars_of(0));
  EXPECT_THROW(optimizer.update({0, block_elements + 1}, gradient.data(), parameters), InternalError);
  EXPECT_THROW(optimizer.update({8192, 8193}, gradient.data(), parameters), InternalError);
  EXPECT_THROW(optimizer.state(2, {0, 1}), InternalError);
  const std::vector<Range> overlapping = {{0, 4096}, {4095, 8192}};
  EXPECT_THROW(Optimizer(options_of("adam"), example_layout(), overlapping), InternalError);
  EXPECT_THROW(Optimizer(options_of("adamax"), example_layout(), shard), ConfigError);
}

TEST(Optimizer, NamesItsStateAsPyTorchDoes) {
  const Range all{0, 12416};
  OptimizerOptions momentum = options_of("sgd");
  momentum.momentum = 0.9;
  const auto names = [&](const OptimizerOptions& o) {
    return Optimizer(o, example_layout(), {&all, 1}).state_names();
  };
  EXPECT_THAT(names(options_of("sgd")), testing::IsEmpty());
  EXPECT_THAT(names(momentum), testing::ElementsAre("momentum_buffer"));
  EXPECT_THAT(names(options_of("adam")), testing::ElementsAre("exp_avg", "exp_avg_sq"));
  EXPECT_THAT(names(options_of("adamw")), testing::ElementsAre("exp_avg", "exp_avg_sq"));
  EXPECT_THAT(names(options_of("rmsprop")), testing::ElementsAre("square_avg"));
  momentum.name = "rmsprop";
  EXPECT_THAT(names(momentum), testing::ElementsAre("square_avg", "momentum_buffer"));
  EXPECT_THAT(names(options_of("adagrad")), testing::ElementsAre("sum"));
  EXPECT_THAT(names(options_of("lion")), testing::ElementsAre("exp_avg"));
  EXPECT_THAT(names(options_of("lars")), testing::ElementsAre("momentum_buffer"));
  EXPECT_THAT(names(options_of("lamb")), testing::ElementsAre("exp_avg", "exp_avg_sq"));
}

TEST(Optimizer, GoesOnFromSavedStateOnAnotherShard) {
  const FlatLayout layout = example_layout();
  const Range all{0, layout.elements};
  const std::vector<Range> halves[2] = {{{0, 2 * block_elements}}, {{2 * block_elements, layout.elements}}};
  for (const OptimizerOptions& o : all_kinds()) {
    Optimizer first(o, layout, {&all, 1});
    std::vector<float> parameters = numbers(1, layout.elements);
    std::vector<Optimizer> second;
    for (const auto& half : halves) second.emplace_back(o, layout, half);
    for (std::int64_t step = 0; step < test_steps; ++step) {
      const std::vector<float> gradient = numbers(100 + static_cast<std::uint64_t>(step), layout.elements);
      if (step == 3) {
        for (Optimizer& half : second) {
          for (std::size_t slot = 0; slot < half.state_names().size(); ++slot) {
            const Range range = half.shard()[0];
            const auto from = first.state(slot, range);
            std::copy(from.begin(), from.end(), half.state(slot, range).begin());
          }
        }
      }
      if (step < 3) {
        first.begin_step(scalars_of(step));
        first.update(all, gradient.data(), parameters);
        continue;
      }
      for (Optimizer& half : second) {
        const Range range = half.shard()[0];
        half.begin_step(scalars_of(step));
        half.update(range, gradient.data() + range.begin, parameters);
      }
    }
    EXPECT_TRUE(same_bits(parameters, train(o))) << describe(o);
  }
}

// ---- The norm of the gradient ----

// Without decay_norms the parameters of rank 1 move as if weight_decay were 0, the others as ever.
TEST(Optimizer, DecayNormsLeavesOutWhatHasOneDimension) {
  FlatLayout layout;
  for (const Shape& shape : {Shape{8, 4}, Shape{32}}) {
    FlatSegment s;
    s.shape = shape;
    s.storage = {layout.elements, layout.elements + 32};
    layout.segments.push_back(s);
    layout.elements += 32;
  }
  for (const std::string& name : rule_names()) {
    const auto updated = [&](double decay, bool norms) {
      OptimizerOptions options = options_of(name);
      options.weight_decay = decay;
      options.decay_norms = norms;
      if (name == "sgd") options.momentum = 0.9;
      const Range all{0, 64};
      Optimizer optimizer(options, layout, {&all, 1});
      std::vector<float> parameters = numbers(1, 64);
      const std::vector<float> gradient = numbers(2, 64);
      for (std::int64_t step = 0; step < 3; ++step) {
        optimizer.begin_step({0.1, 1.0, 1.0, step});
        optimizer.update(all, gradient.data(), parameters);
      }
      return parameters;
    };
    const auto none = updated(0, true), full = updated(0.1, true), masked = updated(0.1, false);
    for (std::size_t i = 0; i < 64; ++i) {
      EXPECT_EQ(masked[i], i < 32 ? full[i] : none[i]) << name << " " << i;
      EXPECT_NE(full[i], none[i]) << name << " " << i;
    }
  }
}

}  // namespace
}  // namespace lockstep
