#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "model/ops/op_run.h"
#include "model/zoo/graph_builder.h"

namespace lockstep {
namespace {

OpCase conv_case(std::string name, Shape in, Conv2dAttrs a) {
  return {std::move(name),
          {std::move(in)},
          [a](GraphBuilder& b, const auto& x) { return b.conv2d(x[0], a); },
          2,
          2};
}

std::vector<OpCase> op_cases() {
  std::vector<OpCase> cases = {
      conv_case("conv_plain", {2, 5, 4}, conv(3, 3, 2)),
      conv_case("conv_stride_pad", {2, 6, 5}, conv(3, 3, 3, 2, 1)),
      conv_case("conv_groups", {4, 4, 4}, conv(6, 3, 3, 1, 1, 2)),
      conv_case("conv_depthwise_no_bias", {3, 4, 4}, conv(3, 3, 3, 1, 1, 3, false)),
      conv_case("conv_1x1_stride_2", {3, 5, 5}, conv(2, 1, 1, 2, 0, 1, false)),
      conv_case("conv_uneven", {1, 7, 5}, Conv2dAttrs{2, 3, 2, 2, 1, 0, 1, 1, true}),
      conv_case("conv_pad_beyond_kernel", {1, 3, 3}, conv(2, 2, 2, 1, 3)),
      {"dense",
       {{5}},
       [](auto& b, const auto& x) {
         return b.dense(x[0], {4, true});
       }},
      {"dense_no_bias",
       {{3}},
       [](auto& b, const auto& x) {
         return b.dense(x[0], {2, false});
       }},
      {"maxpool_2",
       {{2, 4, 6}},
       [](auto& b, const auto& x) {
         return b.max_pool(x[0], {2, 2, 2, 2, 0, 0});
       }},
      {"maxpool_overlap_pad",
       {{2, 5, 5}},
       [](auto& b, const auto& x) {
         return b.max_pool(x[0], {3, 3, 2, 2, 1, 1});
       }},
      {"maxpool_uneven",
       {{1, 5, 4}},
       [](auto& b, const auto& x) {
         return b.max_pool(x[0], {3, 2, 1, 2, 1, 0});
       }},
      {"avgpool_2",
       {{2, 5, 6}},
       [](auto& b, const auto& x) {
         return b.avg_pool(x[0], {2, 2, 2, 2, 0, 0});
       }},
      {"avgpool_overlap_pad",
       {{2, 5, 5}},
       [](auto& b, const auto& x) {
         return b.avg_pool(x[0], {3, 3, 2, 2, 1, 1});
       }},
      {"gap", {{3, 4, 5}}, [](auto& b, const auto& x) { return b.global_avg_pool(x[0]); }},
      {"bn_image", {{3, 4, 4}}, [](auto& b, const auto& x) { return b.batch_norm(x[0]); }},
      {"bn_features",
       {{4}},
       [](auto& b, const auto& x) {
         return b.batch_norm(x[0], {1e-3, 0.1});
       },
       6,
       6},
      {"bn_empty_rows", {{2, 3, 3}}, [](auto& b, const auto& x) { return b.batch_norm(x[0]); }, 5, 3},
      {"bn_one_element", {{3}}, [](auto& b, const auto& x) { return b.batch_norm(x[0]); }, 2, 1},
      {"bn_no_valid_row", {{3}}, [](auto& b, const auto& x) { return b.batch_norm(x[0]); }, 2, 0},
      {"relu", {{2, 3, 4}}, [](auto& b, const auto& x) { return b.relu(x[0]); }},
      {"gelu", {{2, 3, 4}}, [](auto& b, const auto& x) { return b.gelu(x[0]); }},
      {"gelu_empty_rows", {{9}}, [](auto& b, const auto& x) { return b.gelu(x[0]); }, 5, 3},
      {"add", {{2, 3, 3}, {2, 3, 3}}, [](auto& b, const auto& x) { return b.add(x[0], x[1]); }},
      {"add_to_itself", {{7}}, [](auto& b, const auto& x) { return b.add(x[0], x[0]); }},
      {"flatten", {{2, 3, 4}}, [](auto& b, const auto& x) { return b.flatten(x[0]); }},
      {"dropout_half", {{2, 3, 3}}, [](auto& b, const auto& x) { return b.dropout(x[0], {0.5}); }},
      {"dropout_tenth", {{13}}, [](auto& b, const auto& x) { return b.dropout(x[0], {0.1}); }, 4, 2},
      {"dropout_none", {{5}}, [](auto& b, const auto& x) { return b.dropout(x[0], {0.0}); }},
      {"softmax", {{6}}, [](auto& b, const auto& x) { return b.softmax(x[0]); }},
      {"softmax_last_axis", {{2, 2, 3}}, [](auto& b, const auto& x) { return b.softmax(x[0]); }},
  };
  return cases;
}

class OpGradient : public ::testing::TestWithParam<OpCase> {};

// L = sum of weights * output over the valid rows. Central differences with step h = cbrt(eps): the
// truncation h^2 |L'''| / 6 and the rounding eps * sum|terms| / h are then both of the size eps^(2/3), about
// 4e-11, times the magnitude of the terms. The factor 64 covers |L'''| of batch norm and softmax on values in
// (-2, 2) and the rounding inside an op's own sums.
TEST_P(OpGradient, EqualsFiniteDifferencesOfEveryInputAndParameter) {
  OpRun run(GetParam());
  const std::int64_t row = run.graph.shape_of(run.graph.output).elements();
  const std::size_t live = at(run.ctx.valid * row);
  Tensor64 weights = spread_values(at(run.ctx.rows * row), 99);
  std::fill(weights.begin() + static_cast<std::ptrdiff_t>(live), weights.end(), 0.0);
  const auto loss = [&] {
    const Tensor64 output = run.forward();
    double sum = 0;
    for (std::size_t e = 0; e < live; ++e) sum += weights[e] * output[e];
    return sum;
  };
  double magnitude = 1;
  const Tensor64 output = run.forward();
  ASSERT_EQ(output.size(), weights.size());
  for (std::size_t e = 0; e < live; ++e) magnitude += std::abs(weights[e] * output[e]);
  const double h = std::cbrt(std::numeric_limits<double>::epsilon());
  const double tolerance = 64 * h * h * magnitude;

  const OpRun::Gradients gradients = run.backward(weights);
  const auto check = [&](std::vector<Tensor64>& tensors, const std::vector<Tensor64>& found,
                         const char* what) {
    ASSERT_EQ(tensors.size(), found.size());
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      for (std::size_t e = 0; e < tensors[t].size(); ++e) {
        const double x = tensors[t][e];
        tensors[t][e] = x + h;
        const double above = loss();
        tensors[t][e] = x - h;
        const double below = loss();
        tensors[t][e] = x;
        ASSERT_TRUE(std::isfinite(found[t][e]));
        ASSERT_NEAR(found[t][e], (above - below) / (2 * h), tolerance)
            << what << " " << t << " element " << e;
      }
    }
  };
  check(run.inputs, gradients.inputs, "input");
  check(run.parameters, gradients.parameters, "parameter");
}

// backward() adds, so that a value with two consumers gets the sum.
TEST_P(OpGradient, AddsToWhatIsThere) {
  OpRun run(GetParam());
  const Tensor64 ones(run.forward().size(), 1.0);
  const OpRun::Gradients once = run.backward(ones);
  OpRun::Gradients twice = run.backward(ones);
  std::vector<Tensor64*> diff_inputs, diff_parameters;
  for (const ValueId v : run.node().inputs) diff_inputs.push_back(&twice.inputs.at(at(v)));
  for (Tensor64& p : twice.parameters) diff_parameters.push_back(&p);
  op_entry(run.node().attrs)
      .backward(run.node(), run.graph, run.ctx, run.node_inputs(), OpRun::pointers(run.parameters),
                run.forward(), ones, diff_inputs, diff_parameters);
  for (std::size_t t = 0; t < once.inputs.size(); ++t) {
    for (std::size_t e = 0; e < once.inputs[t].size(); ++e) {
      EXPECT_NEAR(twice.inputs[t][e], 2 * once.inputs[t][e], 1e-12 * (1 + std::abs(once.inputs[t][e])));
    }
  }
  for (std::size_t t = 0; t < once.parameters.size(); ++t) {
    for (std::size_t e = 0; e < once.parameters[t].size(); ++e) {
      EXPECT_NEAR(twice.parameters[t][e], 2 * once.parameters[t][e],
                  1e-12 * (1 + std::abs(once.parameters[t][e])));
    }
  }
}

// Nobody needs the gradient of a model's input: a null place for it must not matter.
TEST_P(OpGradient, TakesNullForAnInputThatNeedsNone) {
  OpRun run(GetParam());
  const Tensor64 ones(run.forward().size(), 1.0);
  const OpRun::Gradients with = run.backward(ones);
  std::vector<Tensor64> parameters;
  for (const Tensor64& p : run.parameters) parameters.emplace_back(p.size(), 0.0);
  std::vector<Tensor64*> diff_parameters;
  diff_parameters.reserve(parameters.size());
  for (Tensor64& p : parameters) diff_parameters.push_back(&p);
  op_entry(run.node().attrs)
      .backward(run.node(), run.graph, run.ctx, run.node_inputs(), OpRun::pointers(run.parameters),
                run.forward(), ones, std::vector<Tensor64*>(run.node().inputs.size(), nullptr),
                diff_parameters);
  EXPECT_EQ(parameters, with.parameters);
}

INSTANTIATE_TEST_SUITE_P(Ops, OpGradient, ::testing::ValuesIn(op_cases()),
                         [](const auto& info) { return info.param.name; });

TEST(OpTable, EntriesAreWholeAndHaveNamesOfTheirOwn) {
  ASSERT_GE(op_table().size(), 12U);
  std::set<std::string> names;
  for (const OpEntry* entry : op_table()) {
    SCOPED_TRACE(entry->name);
    EXPECT_TRUE(names.insert(entry->name).second) << "two ops have this name";
    EXPECT_TRUE(entry->infer && entry->flops && entry->examples);
    if (entry->loss != nullptr)
      EXPECT_TRUE(entry->loss->row && entry->default_attrs);
    else
      EXPECT_TRUE(entry->forward && entry->backward);
    EXPECT_FALSE(entry->examples().empty());
    for (const OpExample& example : entry->examples()) EXPECT_EQ(&example.attrs.entry(), entry);
  }
}

TEST(OpTable, AttributesKnowTheirEntry) {
  EXPECT_STREQ(op_entry(Conv2dAttrs{}).name, "conv");
  EXPECT_STREQ(op_entry(BatchNormAttrs{}).name, "bn");
  const OpAttrs dropout = DropoutAttrs{0.25};
  ASSERT_NE(dropout.get<DropoutAttrs>(), nullptr);
  EXPECT_EQ(dropout.get<DropoutAttrs>()->rate, 0.25);
  EXPECT_EQ(dropout.get<ReluAttrs>(), nullptr);
}

}  // namespace
}  // namespace lockstep
