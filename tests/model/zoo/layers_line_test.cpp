#include "model/zoo/layers_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/ops/activation/gelu.h"
#include "model/ops/linear/conv2d.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/ops/loss/mean_squared_error.h"
#include "model/ops/norm/batch_norm.h"
#include "model/ops/pool/avg_pool.h"
#include "model/ops/pool/max_pool.h"
#include "model/ops/random/dropout.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

const OpAttrs ce = CrossEntropyAttrs{};

TEST(LayersLine, TheClassicSmallCnn) {
  const Graph g = build_layers("conv:32x3 relu maxpool:2 flatten dense:10", {1, 28, 28}, 10, ce);
  EXPECT_EQ(g.parameter_count(), 54410);
  std::string shapes;
  for (const OpNode& node : g.nodes) shapes += node.name + " " + g.shape_of(node.output).text() + "; ";
  EXPECT_EQ(shapes, "conv1 32x26x26; relu1 32x26x26; maxpool1 32x13x13; flatten1 5408; dense1 10; ");
  for (const Parameter& p : g.parameters) EXPECT_EQ(p.init, InitKind::torch_linear) << p.name;
}

TEST(LayersLine, AttributesArriveAsWritten) {
  const Graph g = build_layers(
      "conv:9x3,stride=2,pad=1,groups=3,bias=0 bn conv:6x3x5,pad=1x2,stride=2x1 bn:eps=1e-3,momentum=0.25 "
      "maxpool:2x3,pad=1,stride=1 avgpool:3,pad=1x0,stride=2x1 dropout:0.25 gap flatten softmax "
      "dense:7,bias=0",
      {6, 16, 16}, 7, ce);
  const auto& conv = g.nodes.at(0).attrs.as<Conv2dAttrs>();
  EXPECT_EQ(conv.out_channels, 9);
  EXPECT_EQ(conv.kernel_h, 3);
  EXPECT_EQ(conv.kernel_w, 3);
  EXPECT_EQ(conv.stride_h, 2);
  EXPECT_EQ(conv.stride_w, 2);
  EXPECT_EQ(conv.pad_h, 1);
  EXPECT_EQ(conv.pad_w, 1);
  EXPECT_EQ(conv.groups, 3);
  EXPECT_FALSE(conv.bias);
  const auto& uneven = g.nodes.at(2).attrs.as<Conv2dAttrs>();
  EXPECT_EQ(uneven.kernel_h, 3);
  EXPECT_EQ(uneven.kernel_w, 5);
  EXPECT_EQ(uneven.pad_h, 1);
  EXPECT_EQ(uneven.pad_w, 2);
  EXPECT_EQ(uneven.stride_h, 2);
  EXPECT_EQ(uneven.stride_w, 1);
  EXPECT_TRUE(uneven.bias);
  EXPECT_EQ(uneven.groups, 1);
  const auto& plain_norm = g.nodes.at(1).attrs.as<BatchNormAttrs>();
  EXPECT_EQ(plain_norm.epsilon, 1e-5);
  EXPECT_EQ(plain_norm.momentum, 0.1);
  const auto& norm = g.nodes.at(3).attrs.as<BatchNormAttrs>();
  EXPECT_EQ(norm.epsilon, 1e-3);
  EXPECT_EQ(norm.momentum, 0.25);
  EXPECT_EQ(g.statistics.at(2).momentum, 0.25);
  const auto& max = g.nodes.at(4).attrs.as<MaxPoolAttrs>();
  EXPECT_EQ(max.kernel_h, 2);
  EXPECT_EQ(max.kernel_w, 3);
  EXPECT_EQ(max.stride_h, 1);
  EXPECT_EQ(max.stride_w, 1);
  EXPECT_EQ(max.pad_h, 1);
  EXPECT_EQ(max.pad_w, 1);
  const auto& avg = g.nodes.at(5).attrs.as<AvgPoolAttrs>();
  EXPECT_EQ(avg.stride_h, 2);
  EXPECT_EQ(avg.stride_w, 1);
  EXPECT_EQ(avg.pad_h, 1);
  EXPECT_EQ(avg.pad_w, 0);
  EXPECT_EQ(g.nodes.at(6).attrs.as<DropoutAttrs>().rate, 0.25);
  EXPECT_EQ(g.nodes.size(), 11u);
}

TEST(LayersLine, GeluIsALayer) {
  const Graph g = build_layers("conv:8x3 gelu flatten dense:5 gelu dense:2", {1, 8, 9}, 0, ce);
  EXPECT_TRUE(g.nodes.at(1).attrs.is<GeluAttrs>());
  EXPECT_EQ(g.nodes.at(4).name, "gelu2");
  EXPECT_EQ(g.shape_of(g.nodes.at(1).output), (Shape{8, 6, 7}));
}

TEST(LayersLine, PoolsStrideByTheirKernel) {
  const Graph g = build_layers("maxpool:2x3 flatten dense:2", {1, 8, 9}, 0, ce);
  EXPECT_EQ(g.shape_of(g.nodes.at(0).output), (Shape{1, 4, 3}));
}

TEST(LayersLine, BlanksOfAnyKindSeparate) {
  const Graph g = build_layers("  flatten\t dense:5 \n relu  dense:2 ", {1, 2, 2}, 2, ce);
  EXPECT_EQ(g.nodes.size(), 4u);
}

TEST(LayersLine, AFinalSoftmaxIsFusedUnderCrossEntropyOnly) {
  EXPECT_EQ(build_layers("dense:3 softmax", {4}, 3, ce).nodes.size(), 1u);
  EXPECT_EQ(build_layers("dense:3 softmax", {4}, 3, MeanSquaredErrorAttrs{}).nodes.size(), 2u);
}

TEST(LayersLine, EveryExampleInTheHelpIsTaken) {
  for (const std::string& example : layer_examples()) {
    const bool flat = example.starts_with("dense");
    const bool sequence = example.starts_with("sequence_mean") || example.starts_with("unfold");
    const std::string line = (sequence ? "reshape:16x8 " : "") + example + " flatten dense:2";
    EXPECT_NO_THROW(build_layers(line, flat ? Shape{8} : Shape{2, 8, 8}, 2, ce)) << example;
  }
}

// ---- Errors ----

struct Bad {
  std::string line;
  std::size_t caret;  ///< code points before it
  std::vector<std::string> said;
  Shape input{1, 28, 28};
};

class LayersLineErrors : public ::testing::TestWithParam<Bad> {};

std::ostream& operator<<(std::ostream& out, const Bad& bad) {
  return out << bad.line;
}

TEST_P(LayersLineErrors, CaretAndWords) {
  const Bad& bad = GetParam();
  try {
    build_layers(bad.line, bad.input, 10, ce);
    FAIL() << "taken";
  } catch (const ConfigError& error) {
    const std::string what = error.what();
    for (const std::string& part : bad.said) EXPECT_THAT(what, HasSubstr(part));
    EXPECT_EQ(what.substr(what.find('\n')), "\n  " + bad.line + "\n  " + std::string(bad.caret, ' ') + "^")
        << what;
    EXPECT_THAT(what, HasSubstr("(character " + std::to_string(bad.caret + 1) + ")"));
    EXPECT_EQ(error.code(), ExitCode::input);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Typos, LayersLineErrors,
    ::testing::Values(
        Bad{"conw:32x3 relu", 0, {"unknown layer 'conw'", "did you mean 'conv'"}},
        Bad{"conv:32x3 rellu flatten", 10, {"unknown layer 'rellu'", "did you mean 'relu'"}},
        Bad{"conv:32x3 MaxPool:2", 10, {"did you mean 'maxpool'"}},
        Bad{"conv:32x3 transformer", 10, {"unknown layer 'transformer'", "known: avgpool, bn, conv, dense"}},
        Bad{"conv:32x3 gellu", 10, {"unknown layer 'gellu'", "did you mean 'gelu'"}},
        Bad{"gelu:tanh", 5, {"unexpected 'tanh'", "for example gelu"}},
        Bad{"relu :3", 5, {"unknown layer ''"}},
        Bad{"conv:32x3,strid=2", 10, {"conv has no option 'strid'", "did you mean 'stride'"}},
        Bad{"conv:32x3,pad=1,dilation=2", 16, {"no option 'dilation'", "stride, pad, groups, bias"}},
        Bad{"conv:32x3,pad=1,pad=2", 16, {"'pad' is given twice"}},
        Bad{"dense:10,pad=1", 9, {"dense has no option 'pad'", "bias"}},
        Bad{"relu:3", 5, {"unexpected '3'", "for example relu"}}, Bad{"relu:", 5, {"an option is missing"}},
        Bad{"dropout:0.5,rate=3", 12, {"unexpected 'rate=3'"}},
        Bad{"conv:32x3,stride", 16, {"'stride' has no value"}},
        Bad{"conv:32x3,stride=", 17, {"number is missing"}}, Bad{"conv:32x3,=2", 10, {"no option ''"}},
        Bad{"conv:32x3, relu", 10, {"an option is missing here", "no blanks"}},
        Bad{"conv:32x3,5", 10, {"no option '5'"}}, Bad{"conv:stride=2", 5, {"unexpected 's'"}}));

INSTANTIATE_TEST_SUITE_P(
    Numbers, LayersLineErrors,
    ::testing::Values(
        Bad{"conv", 4, {"conv needs a number here", "conv:32x3"}},
        Bad{"relu conv: relu", 10, {"conv needs a number here"}},
        Bad{"conv:32", 7, {"a number is missing", "conv:OUTxK"}}, Bad{"conv:32x", 8, {"number is missing"}},
        Bad{"conv:x3", 5, {"number is missing"}},
        Bad{"conv:32x3x3x3", 12, {"one number too many", "conv:OUTxKHxKW"}},
        Bad{"conv:32x0", 8, {"'0' must be at least 1"}}, Bad{"conv:0x3", 5, {"'0' must be at least 1"}},
        Bad{"conv:-3x3", 5, {"unexpected '-'"}}, Bad{"conv:32x3y", 9, {"unexpected 'y'"}},
        Bad{"conv:32x3.5", 9, {"unexpected '.'"}}, Bad{"conv:32X3", 7, {"unexpected 'X'"}},
        Bad{"conv:32x3,stride=0", 17, {"'0' must be at least 1"}},
        Bad{"conv:32x3,pad=-1", 14, {"unexpected '-'"}},
        Bad{"conv:32x3,pad=1x2x3", 18, {"one number too many", "pad=HxW"}},
        Bad{"conv:32x3,groups=2x2", 18, {"unexpected 'x'"}},
        Bad{"conv:32x3,bias=2", 15, {"bias must be 0 or 1"}},
        Bad{"conv:99999999999999999999x3", 5, {"'99999999999999999999' is too large"}},
        Bad{"conv:32x1099511627777", 8, {"is too large"}},
        Bad{"flatten dense:9223372036854775807", 14, {"is too large"}},
        Bad{"flatten dense:10x2", 17, {"one number too many"}}, Bad{"dropout", 7, {"dropout needs a number"}},
        Bad{"dropout:1", 8, {"'1' is out of range", "below 1"}}, Bad{"dropout:-0.5", 8, {"out of range"}},
        Bad{"dropout:nan", 8, {"'nan' is not a number"}}, Bad{"dropout:0.5x", 8, {"'0.5x' is not a number"}},
        Bad{"bn:eps=0", 7, {"out of range"}}, Bad{"bn:eps=1e-5,momentum=2", 21, {"out of range"}},
        Bad{"bn:eps=inf", 7, {"'inf' is not a number"}}));

INSTANTIATE_TEST_SUITE_P(
    Shapes, LayersLineErrors,
    ::testing::Values(
        Bad{"conv:32x3 relu dense:10",
            15,
            {"layer 3 of the line", "'dense1'", "32x26x26", "flatten", "'dense:10'"}},
        Bad{"conv:32x3 maxpool:27 flatten dense:10", 10, {"'maxpool1'", "27x27", "32x26x26", "layer 2"}},
        Bad{"conv:32x3 conv:9x3,groups=5 flatten dense:10",
            10,
            {"'conv2'", "5 groups", "32x26x26", "9 output"}},
        Bad{"flatten conv:8x3 flatten dense:10", 8, {"'conv1'", "(channels, height, width)", "784"}},
        Bad{"maxpool:2,pad=2 flatten dense:10", 0, {"'maxpool1'", "padding 2x2"}},
        Bad{"conv:999999999999x3 flatten dense:10", 0, {"'conv1'", "999999999999x1x3x3", "2^40"}},
        Bad{"conv:8x3,pad=1073741825 flatten dense:10", 0, {"'conv1'", "padding"}},
        Bad{"conv:8x3,pad=1073741824 flatten dense:10", 0, {"'conv1'", "2^40"}},
        Bad{"flatten dense:12", 8, {"12 outputs", "the data needs 10"}},
        Bad{"conv:10x28", 0, {"10x1x1", "flatten"}}, Bad{"conv:8x3 gap", 9, {"8x1x1", "flatten"}},
        Bad{"flatten dense:10 softmax softmax", 25, {"two softmax"}},
        Bad{"flatten relu", 8, {"nothing to train"}},
        Bad{"dense:10", 0, {"1x28x28", "put a flatten before it"}}));

INSTANTIATE_TEST_SUITE_P(Unicode, LayersLineErrors,
                         ::testing::Values(
                             // The caret counts characters, not bytes.
                             Bad{"flatten größe dense:10", 8, {"unknown layer 'größe'"}},
                             Bad{"conv:8×3 flatten", 6, {"unexpected '×'"}},
                             Bad{"flatten dense:10,größe=1 dense:3", 17, {"no option 'größe'"}},
                             Bad{"dropout:０.5", 8, {"is not a number"}}));

std::string refusal(const std::string& line) {
  try {
    build_layers(line, {1, 28, 28}, 10, ce);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "taken";
}

TEST(LayersLine, AnEmptyLineIsRefused) {
  EXPECT_EQ(refusal(""),
            "model.layers: the line is empty; for example conv:32x3 relu maxpool:2 flatten dense:10 "
            "(character 1)\n  \n  ^");
  EXPECT_THAT(refusal(" \t "), HasSubstr("the line is empty"));
}

// Bytes that are not text must not reach a terminal.
TEST(LayersLine, ControlAndBrokenBytesAreShownAsQuestionMarks) {
  const std::string what = refusal("flatten \x1b[31m\xff\xc3 dense:10");
  EXPECT_THAT(what, HasSubstr("unknown layer '?[31m?\?'"));
  EXPECT_THAT(what, HasSubstr("\n  flatten ?[31m?\? dense:10\n          ^"));
  EXPECT_THAT(refusal(std::string("flatten\0dense:10", 16)), HasSubstr("unknown layer 'flatten?dense'"));
}

TEST(LayersLine, LongLinesAreShownAroundTheCaret) {
  std::string line;
  for (int i = 0; i < 200; ++i) line += "relu ";
  const std::string what = refusal(line + "rellu " + line);
  EXPECT_LT(what.size(), 500u);
  const std::size_t first = what.find('\n'), second = what.find('\n', first + 1);
  const std::string shown = what.substr(first + 1, second - first - 1);
  const std::size_t caret = what.find('^', second) - second - 1;
  EXPECT_EQ(shown.substr(caret, 6), "rellu ");
  EXPECT_TRUE(shown.starts_with("  ..."));
  EXPECT_TRUE(shown.ends_with("..."));
  EXPECT_THAT(what, HasSubstr("(character 1001)"));
}

TEST(LayersLine, HostileLinesEndInOneShortMessage) {
  EXPECT_LT(refusal(std::string(60000, 'x')).size(), 600u);
  EXPECT_LT(refusal("conv:" + std::string(60000, '9')).size(), 600u);
  EXPECT_LT(refusal("conv:" + std::string(30000, ',')).size(), 600u);
  EXPECT_LT(refusal("conv:1" + std::string(30000, 'x')).size(), 600u);
  EXPECT_THAT(refusal(std::string(70000, ' ')), HasSubstr("70000 bytes"));
  std::string deep = "flatten ";
  for (int i = 0; i < 10000; ++i) deep += "relu ";
  EXPECT_EQ(build_layers(deep + "dense:10", {1, 2, 2}, 10, ce).nodes.size(), 10002u);
}

// A typo at the end of the line is told although a shape at its beginning does not fit either.
TEST(LayersLine, TheWholeLineIsReadBeforeShapesAreChecked) {
  EXPECT_THAT(refusal("dense:10 rellu"), HasSubstr("unknown layer 'rellu'"));
}

TEST(LayersLine, AnyCountOfOutputsWillDoWhereTheDataDoesNotSay) {
  EXPECT_EQ(build_layers("flatten dense:12", {1, 2, 2}, 0, ce).shape_of(2), (Shape{12}));
}

}  // namespace
}  // namespace lockstep
