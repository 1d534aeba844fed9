#include "model/zoo/zoo.h"

#include <algorithm>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>
#include <string>

#include "core/error.h"
#include "model/ops/activation/relu.h"
#include "model/ops/arithmetic/add.h"
#include "model/ops/linear/conv2d.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/ops/loss/mean_squared_error.h"
#include "model/ops/norm/batch_norm.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const OpAttrs ce = CrossEntropyAttrs{};

template <class Fn>
std::string refusal(Fn fn) {
  try {
    fn();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "nothing was refused";
}

std::vector<std::string> parameter_names(const Graph& graph) {
  std::vector<std::string> names;
  for (const Parameter& p : graph.parameters) names.push_back(p.name);
  return names;
}

// The counts that every framework gives for these models.
TEST(Zoo, ParameterCountsAreThoseOfTheField) {
  EXPECT_EQ(build_model("mlp", {}, {784}, 10, ce).parameter_count(), 5824522);
  EXPECT_EQ(build_model("mlp", {}, {1, 28, 28}, 10, ce).parameter_count(), 5824522);
  EXPECT_EQ(build_model("lenet", {}, {1, 28, 28}, 10, ce).parameter_count(), 61706);
  EXPECT_EQ(build_model("resnet18", {}, {3, 32, 32}, 10, ce).parameter_count(), 11173962);
  EXPECT_EQ(build_model("resnet50", {}, {3, 224, 224}, 1000, ce).parameter_count(), 25557032);
  EXPECT_EQ(build_model("resnet50", {}, {3, 64, 64}, 1000, ce).parameter_count(), 25557032);
}

TEST(Zoo, MlpFollowsItsOptions) {
  const Graph g =
      build_model("mlp", {{"hidden", "10, 20"}, {"dropout", "0.5"}}, {10}, 1, MeanSquaredErrorAttrs{});
  std::vector<std::string> names;
  for (const OpNode& node : g.nodes) names.push_back(node.name);
  EXPECT_THAT(names, ElementsAre("dense1", "relu1", "dropout1", "dense2", "relu2", "dropout2", "dense3"));
  EXPECT_EQ(g.parameter_count(), 10 * 10 + 10 + 10 * 20 + 20 + 20 + 1);
  EXPECT_TRUE(g.loss.attrs.is<MeanSquaredErrorAttrs>());
  EXPECT_EQ(build_model("mlp", {{"hidden", "10"}}, {10}, 1, ce).nodes.size(), 3u);  // no dropout by default
}

TEST(Zoo, LenetHasTheClassicShapes) {
  const Graph g = build_model("lenet", {}, {1, 28, 28}, 10, ce);
  std::vector<std::string> shapes;
  for (const OpNode& node : g.nodes) shapes.push_back(g.shape_of(node.output).text());
  EXPECT_THAT(shapes, ElementsAre("6x28x28", "6x28x28", "6x14x14", "16x10x10", "16x10x10", "16x5x5", "400",
                                  "120", "120", "84", "84", "10"));
}

TEST(Zoo, Resnet18HasTorchvisionsNamesShapesAndInitialValues) {
  const Graph g = build_model("resnet18", {}, {3, 32, 32}, 10, ce);
  std::vector<std::string> wanted = {"conv1.weight", "bn1.weight", "bn1.bias"};
  for (int stage = 1; stage <= 4; ++stage) {
    for (int block = 0; block < 2; ++block) {
      const std::string at = "layer" + std::to_string(stage) + "." + std::to_string(block) + ".";
      for (const char* name :
           {"conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight", "bn2.weight", "bn2.bias"}) {
        wanted.push_back(at + name);
      }
      if (stage > 1 && block == 0) {
        for (const char* name : {"downsample.0.weight", "downsample.1.weight", "downsample.1.bias"}) {
          wanted.push_back(at + name);
        }
      }
    }
  }
  wanted.insert(wanted.end(), {"fc.weight", "fc.bias"});
  EXPECT_THAT(parameter_names(g), ::testing::UnorderedElementsAreArray(wanted));
  EXPECT_EQ(g.statistics.size(), 2u * 20);
  for (const Parameter& p : g.parameters) {
    if (p.shape.rank() != 4) continue;
    EXPECT_EQ(p.init, InitKind::kaiming_normal_fan_out) << p.name;
    EXPECT_EQ(p.fan_out, p.shape[0] * p.shape[2] * p.shape[3]) << p.name;
  }
  std::set<std::string> spatial;
  for (const OpNode& node : g.nodes) spatial.insert(g.shape_of(node.output).text());
  for (const char* shape : {"64x32x32", "128x16x16", "256x8x8", "512x4x4", "512x1x1", "512", "10"}) {
    EXPECT_TRUE(spatial.count(shape)) << shape;
  }
}

// So that a planner can fuse batch norm, sum and ReLU, the second batch norm must stand right before the sum.
TEST(Zoo, Resnet18PutsTheSumRightAfterTheSecondBatchNorm) {
  const Graph g = build_model("resnet18", {{"width", "2"}}, {3, 8, 8}, 10, ce);
  int sums = 0;
  for (std::size_t n = 1; n + 1 < g.nodes.size(); ++n) {
    if (!g.nodes[n].attrs.is<AddAttrs>()) continue;
    ++sums;
    EXPECT_EQ(g.nodes[n].inputs[0], g.nodes[n - 1].output);
    EXPECT_TRUE(g.nodes[n - 1].attrs.is<BatchNormAttrs>());
    EXPECT_TRUE(g.nodes[n + 1].attrs.is<ReluAttrs>());
  }
  EXPECT_EQ(sums, 8);
}

// 161 parameters and 106 running statistics: the state_dict of torchvision.models.resnet50 without its 53
// counters num_batches_tracked.
TEST(Zoo, Resnet50HasTorchvisionsNamesAndShapes) {
  const Graph g = build_model("resnet50", {}, {3, 224, 224}, 1000, ce);
  std::vector<std::string> wanted = {"conv1.weight", "bn1.weight", "bn1.bias"};
  const int blocks[] = {3, 4, 6, 3};
  for (int stage = 1; stage <= 4; ++stage) {
    for (int block = 0; block < blocks[stage - 1]; ++block) {
      const std::string at = "layer" + std::to_string(stage) + "." + std::to_string(block) + ".";
      for (const char* name : {"conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight", "bn2.weight",
                               "bn2.bias", "conv3.weight", "bn3.weight", "bn3.bias"}) {
        wanted.push_back(at + name);
      }
      if (block == 0) {
        for (const char* name : {"downsample.0.weight", "downsample.1.weight", "downsample.1.bias"}) {
          wanted.push_back(at + name);
        }
      }
    }
  }
  wanted.insert(wanted.end(), {"fc.weight", "fc.bias"});
  EXPECT_EQ(wanted.size(), 161u);
  EXPECT_THAT(parameter_names(g), ::testing::UnorderedElementsAreArray(wanted));
  EXPECT_EQ(g.statistics.size(), 106u);
  const auto shape = [&](const std::string& name) {
    for (const Parameter& p : g.parameters)
      if (p.name == name) return p.shape.text();
    return std::string("none");
  };
  EXPECT_EQ(shape("conv1.weight"), "64x3x7x7");
  EXPECT_EQ(shape("layer1.0.conv1.weight"), "64x64x1x1");
  EXPECT_EQ(shape("layer1.0.downsample.0.weight"), "256x64x1x1");
  EXPECT_EQ(shape("layer2.0.conv2.weight"), "128x128x3x3");
  EXPECT_EQ(shape("layer4.2.conv3.weight"), "2048x512x1x1");
  EXPECT_EQ(shape("fc.weight"), "1000x2048");
}

// Version 1.5: where a stage halves the image, the 3x3 convolution does, not the 1x1 before it.
TEST(Zoo, Resnet50HasTheStrideInThe3x3) {
  const Graph g = build_model("resnet50", {}, {3, 224, 224}, 1000, ce);
  int strided = 0;
  for (const OpNode& node : g.nodes) {
    const auto* conv = node.attrs.get<Conv2dAttrs>();
    if (conv == nullptr || conv->stride_h == 1) continue;
    ++strided;
    EXPECT_TRUE(conv->kernel_h > 1 || node.name.find("downsample") != std::string::npos) << node.name;
  }
  EXPECT_EQ(strided, 1 + 2 * 3);
  std::set<std::string> spatial;
  for (const OpNode& node : g.nodes) spatial.insert(g.shape_of(node.output).text());
  for (const char* s : {"64x112x112", "64x56x56", "256x56x56", "512x28x28", "1024x14x14", "2048x7x7", "2048"})
    EXPECT_TRUE(spatial.count(s)) << s;
}

TEST(Zoo, Resnet50ZeroGammaIsThatOfTheLastNormOfEachBlock) {
  for (const bool zero : {true, false}) {
    const Graph g = build_model("resnet50", {{"zero_gamma", zero ? "true" : "false"}}, {3, 32, 32}, 10, ce);
    int zeros = 0;
    for (const Parameter& p : g.parameters) {
      if (!p.name.ends_with("bn3.weight")) {
        EXPECT_FALSE(p.name.find("bn") != std::string::npos && p.name.ends_with(".weight") &&
                     p.init != InitKind::ones)
            << p.name;
        continue;
      }
      zeros += p.init == InitKind::zeros;
    }
    EXPECT_EQ(zeros, zero ? 16 : 0);
  }
  EXPECT_THAT(refusal([] {
                build_model("resnet50", {{"zero_gamma", "perhaps"}}, {3, 32, 32}, 10, ce);
              }),
              HasSubstr("model.zero_gamma"));
}

TEST(Zoo, WidthScalesResnet18) {
  const Graph g = build_model("resnet18", {{"width", "4"}}, {3, 8, 8}, 5, ce);
  EXPECT_EQ(g.shape_of(g.output), (Shape{5}));
  EXPECT_EQ(g.parameters.back().fan_in, 32);
}

TEST(Zoo, UnknownModelsAndOptionsNameTheNearest) {
  EXPECT_THAT(refusal([] {
                build_model("resnet81", {}, {3, 8, 8}, 5, ce);
              }),
              AllOf(HasSubstr("unknown model 'resnet81'"), HasSubstr("did you mean 'resnet18'")));
  EXPECT_THAT(refusal([] {
                build_model("transformer", {}, {3, 8, 8}, 5, ce);
              }),
              HasSubstr("known: mlp, lenet, resnet18, resnet50"));
  EXPECT_THAT(refusal([] {
                build_model("mlp", {{"hiden", "3"}}, {3}, 5, ce);
              }),
              AllOf(HasSubstr("model.hiden"), HasSubstr("'mlp'"), HasSubstr("did you mean 'hidden'")));
  EXPECT_THAT(refusal([] {
                build_model("lenet", {{"width", "3"}}, {1, 28, 28}, 5, ce);
              }),
              AllOf(HasSubstr("model.width"), HasSubstr("'lenet'"), HasSubstr("none")));
}

TEST(Zoo, WrongValuesAreRefused) {
  for (const char* hidden :
       {"", ",", "10,", "0", "-1", "ten", "10x10", "1e3", "99999999999999999999", "2147483648"}) {
    EXPECT_THAT(refusal([&] {
                  build_model("mlp", {{"hidden", hidden}}, {4}, 2, ce);
                }),
                HasSubstr("model.hidden"))
        << hidden;
  }
  for (const char* rate : {"", "1", "-0.1", "nan", "half"}) {
    EXPECT_THAT(refusal([&] {
                  build_model("mlp", {{"dropout", rate}}, {4}, 2, ce);
                }),
                HasSubstr("model.dropout"))
        << rate;
  }
  for (const char* width : {"", "0", "-64", "64.5", "99999999999999999999"}) {
    EXPECT_THAT(refusal([&] {
                  build_model("resnet18", {{"width", width}}, {3, 8, 8}, 2, ce);
                }),
                HasSubstr("model.width"))
        << width;
  }
  std::string many = "1";
  for (int i = 0; i < 1000; ++i) many += ",1";
  EXPECT_THAT(refusal([&] {
                build_model("mlp", {{"hidden", many}}, {4}, 2, ce);
              }),
              HasSubstr("at most 1000"));
  EXPECT_THAT(refusal([] { build_model("mlp", {}, {4}, 0, ce); }), HasSubstr("at least one output"));
}

TEST(Zoo, AnInputThatDoesNotFitIsToldWithBothShapes) {
  EXPECT_THAT(refusal([] {
                build_model("lenet", {}, {1, 6, 6}, 10, ce);
              }),
              AllOf(HasSubstr("model.name = lenet"), HasSubstr("1x6x6"), HasSubstr("'conv2'"),
                    HasSubstr("5x5"), HasSubstr("6x3x3")));
  EXPECT_THAT(
      refusal([] { build_model("resnet18", {}, {784}, 10, ce); }),
      AllOf(HasSubstr("samples of shape 784"), HasSubstr("'conv1'"), HasSubstr("(channels, height, width)")));
}

TEST(Zoo, EntriesListEveryModelWithItsDefaults) {
  for (const ZooEntry& entry : zoo_entries()) {
    std::map<std::string, std::string> defaults;
    for (const ZooOption& option : entry.options) {
      defaults[option.name] = option.default_text;
      EXPECT_FALSE(option.help.empty());
    }
    EXPECT_FALSE(entry.help.empty());
    EXPECT_EQ(build_model(entry.name, defaults, {3, 32, 32}, 10, ce).parameter_count(),
              build_model(entry.name, {}, {3, 32, 32}, 10, ce).parameter_count());
  }
  EXPECT_EQ(zoo_entries().size(), 4u);
}

}  // namespace
}  // namespace lockstep
