// Groups of parameters by name, and parameters that are not trained.

#include "optim/groups.h"

#include "model/graph/freeze.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "optim/device_optimizer.h"
#include "optim/test_support.h"

namespace lockstep {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)
using testing::ElementsAre;
using testing::HasSubstr;

template <class Body>
std::string refusal_of(Body body) {
  try {
    body();
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "taken";
}

Graph small_net() {
  return build_layers("conv:4x3 bn relu flatten dense:8 relu dense:3", Shape{1, 6, 6}, 3,
                      CrossEntropyAttrs{});
}

TEST(OptimizerGroups, AreReadAsTheyAreWritten) {
  const auto groups = parse_groups("conv*.*: lr=0.1x, decay=0; *.bias:decay=2x,adapt=no ; *: lr=3x");
  ASSERT_EQ(groups.size(), 3u);
  EXPECT_EQ(groups[0].pattern, "conv*.*");
  EXPECT_EQ(groups[0].rate, 0.1);
  EXPECT_EQ(groups[0].decay, 0.0);
  EXPECT_TRUE(groups[0].adapts);
  EXPECT_FALSE(groups[1].decay.has_value());
  EXPECT_EQ(groups[1].decay_factor, 2.0);
  EXPECT_FALSE(groups[1].adapts);
  EXPECT_EQ(groups[2].rate, 3.0);
  EXPECT_TRUE(parse_groups(" ").empty());
}

TEST(OptimizerGroups, WhatIsNoneIsRefusedWithTheReason) {
  const auto refusal = [](const std::string& text) { return refusal_of([&] { parse_groups(text); }); };
  EXPECT_THAT(refusal("conv1.*"), HasSubstr("\"conv1.*\" is not a pattern, a colon and settings"));
  EXPECT_THAT(refusal(": lr=1x"), HasSubstr("is not a pattern"));
  EXPECT_THAT(refusal("a: lr=1x;"), HasSubstr("is not a pattern"));
  EXPECT_THAT(refusal("a: rate=1x"), HasSubstr("none of lr=, decay= and adapt="));
  EXPECT_THAT(refusal("a:"), HasSubstr("none of lr="));
  EXPECT_THAT(refusal("a: lr=0.1"), HasSubstr("needs an x behind it"));
  EXPECT_THAT(refusal("a: lr=fastx"), HasSubstr("\"fastx\" of lr is not a number"));
  EXPECT_THAT(refusal("a: lr=-1x"), HasSubstr("is not a number from 0"));
  EXPECT_THAT(refusal("a: decay=nan"), HasSubstr("\"nan\" of decay is not a number"));
  EXPECT_THAT(refusal("a: lr=0x"), HasSubstr("model.freeze is for that"));
  EXPECT_THAT(refusal("a: adapt=maybe"), HasSubstr("neither yes nor no"));
}

TEST(OptimizerGroups, TheFirstThatMatchesCounts) {
  const std::vector<std::string> names = {"conv1.weight", "conv1.bias", "dense1.weight", "dense1.bias"};
  EXPECT_THAT(assign_groups(parse_groups("*.bias: decay=0; conv1.*: lr=2x"), names),
              ElementsAre(1, 0, -1, 0));
  EXPECT_THAT(refusal_of([&] { assign_groups(parse_groups("conv9.*: lr=2x"), names); }),
              HasSubstr("the pattern conv9.* matches no parameter that is trained; like it are conv1.weight, "
                        "conv1.bias"));
  EXPECT_THAT(refusal_of([&] { assign_groups(parse_groups("*: lr=2x; conv1.*: decay=0"), names); }),
              HasSubstr("all that the pattern conv1.* matches is in groups before it"));
}

TEST(OptimizerGroups, ALineSaysWhatEachMatches) {
  OptimizerOptions options = options_of("sgd");
  options.weight_decay = 0.5;
  options.groups = "*.bias: decay=0; conv1.*: lr=0.1x, decay=2x";
  EXPECT_THAT(group_lines(options, small_net()),
              ElementsAre("optimizer.groups: *.bias has 4 tensors, 19 parameters: rate 1x, decay 0",
                          "optimizer.groups: conv1.* has 1 tensor, 36 parameters: rate 0.1x, decay 1"));
  options.decay_norms = false;
  options.groups = "conv1.*: lr=0.1x; *: decay=0.25";
  EXPECT_THAT(
      group_lines(options, small_net()),
      ElementsAre("optimizer.groups: conv1.* has 2 tensors, 40 parameters: rate 0.1x, decay 0.5 (0 of 1 "
                  "tensor, by optimizer.decay_norms)",
                  HasSubstr("decay 0.25 (0 of 4 tensors")));
}

// A group's elements move as under an optimizer of that rate and decay, all others as without groups.
TEST(OptimizerGroups, MoveByTheirOwnRateAndDecay) {
  for (const OptimizerOptions& base : all_kinds()) {
    OptimizerOptions grouped = base, other = base;
    grouped.groups = "w1: lr=0.5x, decay=0.25";
    other.weight_decay = 0.25;
    const FlatLayout layout = example_layout();
    const auto moved = [&](const OptimizerOptions& o, double rate) {
      const Range all{0, layout.elements};
      Optimizer optimizer(o, layout, {&all, 1});
      std::vector<float> parameters = numbers(1, layout.elements);
      for (std::int64_t step = 0; step < test_steps; ++step) {
        const std::vector<float> gradient = numbers(100 + static_cast<std::uint64_t>(step), layout.elements);
        UpdateScalars scalars = scalars_of(step);
        scalars.lr *= rate;
        optimizer.begin_step(scalars);
        optimizer.update(all, gradient.data(), parameters);
      }
      return parameters;
    };
    const std::vector<float> got = moved(grouped, 1), plain = moved(base, 1), half = moved(other, 0.5);
    const auto first_of_w1 = static_cast<std::ptrdiff_t>(6016);
    EXPECT_TRUE(std::equal(got.begin(), got.begin() + first_of_w1, plain.begin())) << describe(base);
    EXPECT_TRUE(std::equal(got.begin() + first_of_w1, got.end(), half.begin() + first_of_w1))
        << describe(base);
    EXPECT_FALSE(std::equal(got.begin() + first_of_w1, got.end(), plain.begin() + first_of_w1));
  }
}

TEST(OptimizerGroups, NoMoreThanADeviceKeeps) {
  FlatLayout layout = example_layout();
  OptimizerOptions options = options_of("sgd");
  for (int i = 0; i < most_sets; ++i) {
    FlatSegment segment;
    segment.name = "p" + std::to_string(i);
    segment.shape = Shape{16};
    segment.storage = {layout.elements, layout.elements + 16};
    layout.elements += 16;
    layout.segments.push_back(segment);
    options.groups += (i == 0 ? "" : "; ") + segment.name + ": lr=" + std::to_string(i + 2) + "x";
  }
  EXPECT_THAT(refusal_of([&] { parameter_sets(options, layout); }), HasSubstr("17 different pairs"));
  options.groups = options.groups.substr(0, options.groups.rfind(';'));
  EXPECT_EQ(parameter_sets(options, layout).sets.size(), static_cast<std::size_t>(most_sets));
}

TEST(OptimizerFreeze, PatternsNameWhatIsNotTrained) {
  Graph graph = small_net();
  freeze_parameters(graph, "conv*, bn1.weight");
  std::vector<std::string> trained;
  for (const Parameter& p : graph.parameters)
    if (p.trainable) trained.push_back(p.name);
  EXPECT_THAT(trained,
              ElementsAre("bn1.bias", "dense1.weight", "dense1.bias", "dense2.weight", "dense2.bias"));
  EXPECT_THAT(freeze_lines(graph, "conv*, bn1.weight"),
              ElementsAre("model.freeze: conv* keeps 2 tensors, 40 parameters, as they are",
                          "model.freeze: bn1.weight keeps 1 tensor, 4 parameters, as they are"));
  freeze_parameters(graph, "");
  const auto refusal = [](const std::string& patterns) {
    return refusal_of([&] {
      Graph other = small_net();
      freeze_parameters(other, patterns);
    });
  };
  EXPECT_THAT(refusal("conv1.wieght"),
              HasSubstr("conv1.wieght matches no parameter; like it are conv1.weight"));
  EXPECT_THAT(refusal("*"), HasSubstr("so there is nothing to train"));
  EXPECT_THAT(refusal("conv1.*,"), HasSubstr("has an empty part"));
}

// What is not trained has no state, keeps its bits and adds nothing to the norm of the gradient.
TEST(OptimizerFreeze, AFrozenSegmentHasNoStateAndKeepsItsBits) {
  FlatLayout layout = example_layout();
  layout.segments[0].trainable = false;  // w2: [0, 5003), its padding to 5008
  const Range all{0, layout.elements};
  for (const OptimizerOptions& o : all_kinds()) {
    Optimizer optimizer(o, layout, {&all, 1}), whole(o, example_layout(), {&all, 1});
    EXPECT_EQ(optimizer.state_elements(), layout.elements - 5008);
    ASSERT_EQ(optimizer.shard().size(), 1u);
    EXPECT_EQ(optimizer.shard()[0].begin, 5008);
    std::vector<float> a = numbers(1, layout.elements), b = a;
    const std::vector<float> before = a;
    for (std::int64_t step = 0; step < 3; ++step) {
      const std::vector<float> gradient = numbers(100 + static_cast<std::uint64_t>(step), layout.elements);
      for (Optimizer* one : {&optimizer, &whole}) one->begin_step(scalars_of(step));
      for (int lane = 0; lane < 2; ++lane) optimizer.update_share(views_of(gradient, {1}), a, lane, 2);
      whole.update(all, gradient.data(), b);
    }
    EXPECT_TRUE(std::equal(a.begin(), a.begin() + 5003, before.begin())) << describe(o);
    EXPECT_TRUE(std::equal(a.begin() + 5003, a.end(), b.begin() + 5003)) << describe(o);
    EXPECT_FALSE(std::equal(b.begin(), b.begin() + 5003, before.begin()));
  }
  const Optimizer optimizer(options_of("adam"), layout, {&all, 1});
  std::vector<float> gradient(static_cast<std::size_t>(layout.elements));
  std::fill(gradient.begin(), gradient.begin() + 5003, 1.0f);
  const auto views = views_of(gradient, {});
  std::vector<double> sums(4, -1);
  optimizer.sum_squares(views, sums);
  EXPECT_THAT(sums, ElementsAre(0, 0, 0, 0));
  const std::vector<cuda::GranuleKind> kinds = granule_kinds(layout, options_of("adam"));
  EXPECT_EQ(kinds[0].parameter + kinds[0].statistic, 0);
  EXPECT_EQ(kinds.back().parameter, 1);
}

// Shards whose edges lie in and around what is not trained.
TEST(OptimizerFreeze, ShardsAreCutAroundIt) {
  FlatLayout layout = example_layout();
  layout.segments[2].trainable = false;  // w1: [6016, 12416)
  const std::vector<Range> shard = {{0, block_elements}, {2 * block_elements, 3 * block_elements}};
  const Optimizer last(options_of("adam"), layout, shard);
  ASSERT_EQ(last.shard().size(), 1u);
  EXPECT_EQ(last.shard()[0].end, block_elements);
  const std::vector<Range> middle = {{block_elements, 2 * block_elements},
                                     {2 * block_elements + block_elements / 2, 3 * block_elements},
                                     {3 * block_elements, layout.elements}};
  const Optimizer part(options_of("adam"), layout, middle);
  ASSERT_EQ(part.shard().size(), 1u);
  EXPECT_EQ(part.shard()[0].begin, block_elements);
  EXPECT_EQ(part.shard()[0].end, 6016);
  std::vector<float> gradient(static_cast<std::size_t>(layout.elements));
  std::vector<TotalView> pieces;
  part.cut_for_state({views_of(gradient, {1, 2})}, pieces);
  ASSERT_EQ(pieces.size(), 1u);
  EXPECT_EQ(pieces[0].range.end, 6016);
  EXPECT_EQ(pieces[0].data, gradient.data() + block_elements);
}

}  // namespace
}  // namespace lockstep
