#include "model/graph/graph.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>

#include "core/error.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/ops/loss/mean_squared_error.h"
#include "model/zoo/graph_builder.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <class Fn>
std::string refusal(Fn fn) {
  try {
    fn();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "nothing was refused";
}

std::vector<std::string> layer_names(const Graph& graph) {
  std::vector<std::string> names;
  for (const OpNode& node : graph.nodes) names.push_back(node.name);
  return names;
}

std::vector<std::string> parameter_names(const Graph& graph) {
  std::vector<std::string> names;
  for (const Parameter& p : graph.parameters) names.push_back(p.name);
  return names;
}

TEST(GraphBuilder, NamesLayersByOpAndOrdinal) {
  GraphBuilder b;
  ValueId x = b.input({1, 8, 8});
  x = b.relu(b.conv2d(x, {4, 3, 3}));
  x = b.relu(b.batch_norm(b.conv2d(x, {4, 3, 3})));
  x = b.dense(b.flatten(b.max_pool(x, {2, 2, 2, 2})), {10});
  const Graph g = b.finish(x, CrossEntropyAttrs{});
  EXPECT_THAT(layer_names(g),
              ElementsAre("conv1", "relu1", "conv2", "bn1", "relu2", "maxpool1", "flatten1", "dense1"));
  EXPECT_THAT(parameter_names(g), ElementsAre("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias",
                                              "bn1.weight", "bn1.bias", "dense1.weight", "dense1.bias"));
  EXPECT_EQ(g.statistics.at(0).name, "bn1.running_mean");
  EXPECT_EQ(g.statistics.at(1).name, "bn1.running_var");
  EXPECT_EQ(g.statistics.at(0).initial, 0.0f);
  EXPECT_EQ(g.statistics.at(1).initial, 1.0f);
  EXPECT_TRUE(g.mixes_rows());
  EXPECT_EQ(g.parameter_count(), 4 * 9 + 4 + 4 * 4 * 9 + 4 + 4 + 4 + 16 * 10 + 10);
}

TEST(GraphBuilder, DefaultNamesStepAsideAndGivenOnesMustBeUnique) {
  GraphBuilder b;
  ValueId x = b.dense(b.input({4}), {4}, "dense2");
  x = b.dense(x, {4});  // the second dense, but dense2 is taken
  EXPECT_EQ(b.finish(x, CrossEntropyAttrs{}).nodes.at(1).name, "dense3");
  EXPECT_THAT(refusal([&] { b.relu(x, "dense3"); }), HasSubstr("two layers are called 'dense3'"));
}

TEST(GraphBuilder, ShapesFansAndKinds) {
  GraphBuilder b;
  ValueId x = b.input({4, 9, 9});
  x = b.conv2d(x, Conv2dAttrs{6, 3, 2, 1, 1, 0, 0, 2, true}, "c", InitKind::kaiming_normal_fan_out);
  x = b.dense(b.flatten(x), {5, true});
  const Graph g = b.finish(x, CrossEntropyAttrs{});
  const Parameter& w = g.parameters.at(0);
  EXPECT_EQ(w.shape, (Shape{6, 2, 3, 2}));
  EXPECT_EQ(w.fan_in, 2 * 3 * 2);
  EXPECT_EQ(w.fan_out, 6 * 3 * 2);
  EXPECT_EQ(w.init, InitKind::kaiming_normal_fan_out);
  EXPECT_EQ(g.parameters.at(1).init, InitKind::zeros);
  const Parameter& bias = g.parameters.at(3);
  EXPECT_EQ(bias.shape, (Shape{5}));
  EXPECT_EQ(bias.init, InitKind::torch_linear);
  EXPECT_EQ(bias.fan_in, 6 * 7 * 8);  // the weight's, as in PyTorch
  EXPECT_EQ(g.shape_of(g.output), (Shape{5}));
}

TEST(GraphBuilder, BuildsADagWithAValueUsedTwice) {
  GraphBuilder b;
  const ValueId x = b.input({3});
  const ValueId h = b.dense(x, {3});
  const ValueId sum = b.add(b.relu(h), h);
  const Graph g = b.finish(sum, MeanSquaredErrorAttrs{});
  EXPECT_THAT(g.nodes.back().inputs, ElementsAre(2, 1));
  for (std::size_t n = 0; n < g.nodes.size(); ++n) {  // topological
    for (const ValueId v : g.nodes[n].inputs)
      EXPECT_LT(g.values.at(static_cast<std::size_t>(v)).producer, static_cast<int>(n));
    EXPECT_EQ(g.values.at(static_cast<std::size_t>(g.nodes[n].output)).producer, static_cast<int>(n));
  }
}

TEST(GraphBuilder, AFinalSoftmaxUnderCrossEntropyIsFused) {
  GraphBuilder b;
  const ValueId logits = b.dense(b.input({3}), {4});
  const ValueId y = b.softmax(logits);
  const Graph fused = b.finish(y, CrossEntropyAttrs{});
  EXPECT_EQ(fused.output, logits);
  EXPECT_THAT(layer_names(fused), ElementsAre("dense1"));
  EXPECT_EQ(fused.values.size(), 2u);
  // Under mean squared error the softmax is part of the model.
  const Graph kept = b.finish(y, MeanSquaredErrorAttrs{});
  EXPECT_EQ(kept.output, y);
  EXPECT_EQ(kept.nodes.size(), 2u);
}

TEST(GraphBuilder, TwoSoftmaxBeforeCrossEntropyAreRefused) {
  GraphBuilder b;
  const ValueId y = b.softmax(b.softmax(b.dense(b.input({3}), {4})));
  EXPECT_THAT(refusal([&] { b.finish(y, CrossEntropyAttrs{}); }), HasSubstr("two softmax"));
}

TEST(GraphBuilder, DeadValuesAreRefused) {
  GraphBuilder b("net");
  const ValueId x = b.input({3});
  const ValueId y = b.dense(x, {4});
  b.relu(y, "forgotten");
  EXPECT_THAT(
      refusal([&] { b.finish(y, CrossEntropyAttrs{}); }),
      ::testing::AllOf(HasSubstr("'net'"), HasSubstr("'forgotten'"), HasSubstr("does not reach the output")));
  GraphBuilder c;
  c.input({5});
  const ValueId z = c.dense(c.input({3}), {4});
  EXPECT_THAT(refusal([&] { c.finish(z, CrossEntropyAttrs{}); }), HasSubstr("input of shape 5"));
}

TEST(GraphBuilder, ForeignValuesAreRefused) {
  GraphBuilder b;
  const ValueId x = b.input({3});
  EXPECT_THAT(refusal([&] { b.relu(7, "r"); }), ::testing::AllOf(HasSubstr("'r'"), HasSubstr("value 7")));
  EXPECT_THAT(refusal([&] { b.add(x, -1); }), HasSubstr("value -1"));
  EXPECT_THAT(refusal([&] { b.conv2d(9, {4, 3, 3}); }), HasSubstr("value 9"));
  EXPECT_THAT(refusal([&] { b.finish(4, CrossEntropyAttrs{}); }), HasSubstr("value 4"));
  EXPECT_THAT(refusal([&] { GraphBuilder().finish(0, CrossEntropyAttrs{}); }), HasSubstr("no input"));
}

TEST(GraphBuilder, InputsMustHaveExtents) {
  EXPECT_THAT(refusal([&] { GraphBuilder().input(Shape{}); }), HasSubstr("at least one extent"));
  EXPECT_THAT(refusal([&] { GraphBuilder().input({3, 0, 2}); }), HasSubstr("3x0x2"));
  EXPECT_THAT(refusal([&] { GraphBuilder().input({-1}); }), HasSubstr("-1"));
  EXPECT_THAT(refusal([&] { GraphBuilder().input({1 << 21, 1 << 21}); }), HasSubstr("2^40"));
}

TEST(GraphBuilder, CrossEntropyTakesLogitsOfRankOne) {
  GraphBuilder b;
  const ValueId x = b.conv2d(b.input({1, 4, 4}), {4, 3, 3});
  EXPECT_THAT(refusal([&] { b.finish(x, CrossEntropyAttrs{}); }),
              ::testing::AllOf(HasSubstr("4x2x2"), HasSubstr("flatten")));
  EXPECT_EQ(b.finish(x, MeanSquaredErrorAttrs{}).output, x);
}

TEST(GraphBuilder, ARefusedLayerLeavesTheBuilderAsItWas) {
  GraphBuilder b;
  const ValueId x = b.input({4});
  EXPECT_THROW(b.conv2d(x, {4, 3, 3}), ConfigError);
  EXPECT_THROW(b.dense(x, {-4}), ConfigError);
  const Graph g = b.finish(b.dense(x, {2}), CrossEntropyAttrs{});
  EXPECT_THAT(layer_names(g), ElementsAre("dense1"));
  EXPECT_EQ(g.parameters.size(), 2u);
}

}  // namespace
}  // namespace lockstep
