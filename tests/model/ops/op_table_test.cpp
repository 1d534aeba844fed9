// Walks the table of ops: every entry, at each of its examples, on every device and in every precision.

#include "model/graph/op_table.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/numerics/precision.h"
#include "device/lane_pool.h"
#include "model/device_under_test.h"
#include "model/ops/loss/mean_squared_error.h"
#include "model/ops/norm/rms_norm.h"
#include "model/ops/op_run.h"
#include "model/ops/sequence/sequence_mean.h"
#include "support/process.h"

namespace lockstep::test {
namespace {

/// The op, or loss, behind an RMS norm, whose weight makes the gradient of the op's input count. Each input
/// of the op has a norm of its own; inputs of equal shapes come from one field, whole numbers have no norm.
/// `ragged`: fields are sequences of different lengths.
Graph graph_around(const OpExample& example, bool ragged = false) {
  GraphBuilder b("example");
  std::vector<ValueId> inputs, taken;
  for (std::size_t i = 0; i < example.inputs.size(); ++i) {
    const Shape& shape = example.inputs[i];
    const DType type = i < example.types.size() ? example.types[i] : DType::f32;
    const auto same =
        std::find_if(taken.begin(), taken.end(), [&](ValueId v) { return b.shape_of(v) == shape; });
    const bool is_new = same == taken.end();
    const ValueId x = is_new ? b.field({"x" + std::to_string(i), type, shape, ragged}) : *same;
    if (is_new) taken.push_back(x);
    inputs.push_back(type == DType::f32 ? b.append(RmsNormAttrs{1e-3}, {x}) : x);
  }
  if (example.attrs.entry().loss != nullptr) return b.finish(inputs[0], example.attrs);
  ValueId out = b.append(example.attrs, inputs, "op");
  // A loss takes numbers of rows that are alike.
  if (ragged && example.attrs.entry().length != nullptr) out = b.append(SequenceMeanAttrs{}, {out});
  return b.finish(out, MeanSquaredErrorAttrs{});
}

/// Calls check(entry, example) for the whole table.
template <class Check>
void for_each_example(Check check) {
  for (const OpEntry* entry : op_table()) {
    const std::vector<OpExample> examples = entry->examples();
    for (std::size_t i = 0; i < examples.size(); ++i) {
      SCOPED_TRACE(std::string(entry->name) + ", example " + std::to_string(i));
      check(*entry, examples[i]);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

/// The longest sum that stands behind a value of the graph.
std::int64_t longest_sum(const Graph& graph, std::int64_t rows) {
  std::int64_t longest = 1;
  for (const Value& value : graph.values) longest = std::max(longest, value.shape.elements());
  for (const Parameter& p : graph.parameters) longest = std::max(longest, p.fan_in);
  return longest * rows;
}

class OpTableWalk : public testing::TestWithParam<DeviceUnderTest> {
 protected:
  void SetUp() override {
    if (!GetParam().missing.empty()) LOCKSTEP_SKIP_WITHOUT(GetParam().means, GetParam().missing);
  }
  const Compile& compile() const { return GetParam().compile; }
  float loss_scale() const { return GetParam().precision == cuda::Precision::fp16 ? 256.0f : 1.0f; }
  /// A sum of n rounded products, added in any order, is off by less than (n + 1) u of the sum of their
  /// sizes, and by about sqrt(n) u where roundings are independent (Higham 2002, section 4.2). Eight sums
  /// stand behind each other from the input to a gradient. In 16 bits every value between ops is rounded
  /// besides, and one in 1 / (8 u) decisions of ReLU and of a maximum turns the other way.
  double bound(const Graph& graph, std::int64_t rows) const {
    const double n = static_cast<double>(longest_sum(graph, rows));
    const double sums = 8 * (std::sqrt(n) + 8) * 0x1p-24;
    switch (GetParam().precision) {
      case cuda::Precision::fp32:
        return sums;
      case cuda::Precision::tf32:
        return sums + 8 * unit_roundoff_tf32 + std::sqrt(8 * unit_roundoff_tf32);
      case cuda::Precision::bf16:
        return sums + 8 * unit_roundoff_bf16 + std::sqrt(8 * unit_roundoff_bf16);
      case cuda::Precision::fp16:
        return sums + 8 * unit_roundoff_fp16 + std::sqrt(8 * unit_roundoff_fp16);
    }
    return 0;
  }

  /// What inference gives for a slice.
  std::vector<float> infer(const Graph& graph, SliceData& slice) const {
    ExecutorOptions options;
    options.slice_rows = slice.rows;
    options.training = false;
    const auto executor = compile()(graph, options);
    const std::vector<float> flat = initial_flat(graph, *executor);
    Batch batch = slice.batch(0);
    batch.fields = batch.fields.first(batch.fields.size() - 1);  // what the loss takes is left out
    std::vector<float> output(static_cast<std::size_t>(slice.rows * graph.shape_of(graph.output).elements()));
    const std::span<float> outputs(output);
    SliceResult result;
    StepInputs inputs;
    inputs.parameters = flat;
    inputs.slices = {&batch, 1};
    inputs.results = {&result, 1};
    executor->infer(inputs, {&outputs, 1});
    return output;
  }
};

/// Rows of several slices, one behind the other.
SliceData joined(const std::vector<const SliceData*>& parts) {
  SliceData all = *parts.front();
  for (std::size_t p = 1; p < parts.size(); ++p) {
    const SliceData& part = *parts[p];
    const auto add = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
    for (std::size_t f = 0; f < all.fields.size(); ++f) {
      add(all.fields[f], part.fields[f]);
      add(all.lengths[f], part.lengths[f]);
    }
    add(all.samples, part.samples);
    all.rows += part.rows;
    all.valid += part.valid;
  }
  return all;
}

TEST_P(OpTableWalk, EveryEntryAgreesWithItsReference) {
  for_each_example([&](const OpEntry&, const OpExample& example) {
    const Graph graph = graph_around(example);
    const std::int64_t rows = 5;
    // A gradient may be 0 by cancellation, as in front of a norm: its terms are of order 1, and so is the
    // floor.
    expect_matches_reference(compile(), graph, rows, {5, 2, 0}, bound(graph, rows), loss_scale(), 1.0);
  });
}

TEST_P(OpTableWalk, TwoSlicesGiveTheGradientOfOneWhereRowsDoNotMix) {
  for_each_example([&](const OpEntry& entry, const OpExample& example) {
    if (entry.traits.mixes_rows) return;
    const Graph graph = graph_around(example);
    Data halves(graph, 2, 3, {3, 3});
    Data whole(graph, 1, 6, {6});
    whole.slices[0] = joined({&halves.slices[0], &halves.slices[1]});
    whole.batches[0] = whole.slices[0].batch(0);
    const Trained two = train_once(compile(), graph, halves, 2, {0, 2}, 1, loss_scale());
    const Trained one = train_once(compile(), graph, whole, 1, {0, 1}, 1, loss_scale());
    ASSERT_EQ(one.layout.elements, two.layout.elements);
    double error = 0, norm = 0;
    for (std::size_t e = 0; e < one.roots[0].size(); ++e) {
      const double d = static_cast<double>(one.roots[0][e]) - static_cast<double>(two.roots[0][e]);
      error += d * d;
      norm += std::pow(static_cast<double>(one.roots[0][e]), 2);
    }
    EXPECT_LE(std::sqrt(error), 2 * bound(graph, 6) * (std::sqrt(norm) + 1e-3));
  });
}

TEST_P(OpTableWalk, EmptyRowsAreWhatTheEntrySays) {
  for_each_example([&](const OpEntry& entry, const OpExample& example) {
    const Graph graph = graph_around(example);
    const bool bias = graph.nodes.back().parameters.size() > 1;
    const auto zero = entry.traits.zero_rows;
    if (zero == OpTraits::ZeroRows::lost || (zero == OpTraits::ZeroRows::kept_without_bias && bias)) return;
    Data data(graph, 1, 4, {2});
    const std::vector<float> output = infer(graph, data.slices[0]);
    for (std::size_t i = output.size() / 2; i < output.size(); ++i) ASSERT_EQ(output[i], 0.0f);
  });
}

TEST_P(OpTableWalk, RowsDoNotDependOnTheirCompany) {
  for_each_example([&](const OpEntry& entry, const OpExample& example) {
    if (!entry.traits.independent) return;
    const Graph graph = graph_around(example);
    const auto out = static_cast<std::size_t>(graph.shape_of(graph.output).elements());
    Data others(graph, 4, 1, {1, 1, 1, 1});
    const std::vector<float> alone = infer(graph, others.slices[0]);
    for (const std::size_t rows : {2, 3, 7, 16, 17, 64, 257}) {
      std::vector<std::size_t> places = {0, rows / 2, rows - 1};
      for (const std::size_t place : places) {
        std::vector<const SliceData*> parts;
        for (std::size_t r = 0; r < rows; ++r) parts.push_back(&others.slices[r == place ? 0 : 1 + r % 3]);
        SliceData company = joined(parts);
        const std::vector<float> output = infer(graph, company);
        ASSERT_EQ(std::memcmp(output.data() + place * out, alone.data(), out * sizeof(float)), 0)
            << "row " << place << " of " << rows;
      }
    }
  });
}

/// Examples that may be sequences: (positions, features), or whole numbers.
bool takes_sequences(const OpEntry& entry, const OpExample& example) {
  if (entry.length == nullptr && !entry.traits.reads_lengths) return false;
  return entry.traits.takes == DType::i32 ? example.inputs[0].rank() == 1 : example.inputs[0].rank() == 2;
}

TEST_P(OpTableWalk, SequencesOfDifferentLengthsAgreeWithTheReference) {
  std::size_t tried = 0;
  for_each_example([&](const OpEntry& entry, const OpExample& example) {
    if (!takes_sequences(entry, example)) return;
    const Graph graph = graph_around(example, true);
    ++tried;
    if (GetParam().name == "cpu_bf16") {  // refused, not computed in another precision
      ExecutorOptions options;
      options.slice_rows = 5;
      EXPECT_THROW((void)compile()(graph, options), ConfigError);
      return;
    }
    expect_matches_reference(compile(), graph, 5, {5, 3, 0}, bound(graph, 5), loss_scale(), 1.0);
  });
  EXPECT_GT(tried, 5u);
}

INSTANTIATE_TEST_SUITE_P(Devices, OpTableWalk, testing::ValuesIn(devices_under_test()),
                         [](const auto& info) { return info.param.name; });

void expect_that_lanes_change_no_bit(Precision precision) {
  for_each_example([&](const OpEntry&, const OpExample& example) {
    const Graph graph = graph_around(example);
    const Data data(graph, 4, 6, {6, 6, 6, 3});
    std::vector<float> first;
    for (const int count : {1, 2, 3}) {
      LanePool lanes(count);
      const auto compile = [&](const Graph& g, const ExecutorOptions& options) {
        return compile_cpu(g, options, lanes, nullptr, precision);
      };
      const Trained got = train_once(compile, graph, data, 4, {0, 4});
      if (first.empty()) first = got.roots[0];
      ASSERT_EQ(std::memcmp(first.data(), got.roots[0].data(), first.size() * sizeof(float)), 0)
          << count << " lanes";
    }
  });
}

TEST(OpTableOnTheCpu, LanesChangeNoBit) {
  expect_that_lanes_change_no_bit(Precision::fp32);
}

TEST(OpTableOnTheCpu, LanesChangeNoBitInBf16) {
  if (const std::string problem = cpu_bf16_problem(); !problem.empty())
    LOCKSTEP_SKIP_WITHOUT("bf16", problem);
  expect_that_lanes_change_no_bit(Precision::bf16);
}

TEST(OpTableReferences, GradientsOfLossesAreFiniteDifferences) {
  for_each_example([&](const OpEntry& entry, const OpExample& example) {
    if (entry.loss == nullptr) return;
    const auto width = static_cast<std::size_t>(example.inputs[0].elements());
    Tensor64 x = spread_values(width, 1);
    std::vector<float> targets(width);
    for (std::size_t i = 0; i < width; ++i) targets[i] = 0.03f + 0.23f * static_cast<float>(i * 7 % 5);
    const auto classes = static_cast<std::int32_t>(example.inputs[0].dims().back());
    std::vector<std::int32_t> labels;  // one for each vector of scores; the second is left out
    for (std::size_t v = 0; v < width / static_cast<std::size_t>(classes); ++v)
      labels.push_back(v == 1
                           ? static_cast<std::int32_t>(entry.loss->pad)
                           : static_cast<std::int32_t>(v + static_cast<std::size_t>(classes) / 2) % classes);
    const auto value = [&] {
      Tensor64 unused(width, 0.0);
      return entry.loss
          ->row(example.attrs, example.inputs[0], x.data(), targets.data(), labels.data(), unused.data())
          .loss;
    };
    Tensor64 gradient(width, 0.0);
    entry.loss->row(example.attrs, example.inputs[0], x.data(), targets.data(), labels.data(),
                    gradient.data());
    for (std::size_t i = 0; i < width; ++i) {
      const double first = x[i], h = 1e-6;
      x[i] = first + h;
      const double above = value();
      x[i] = first - h;
      const double below = value();
      x[i] = first;
      ASSERT_NEAR(gradient[i], (above - below) / (2 * h), 1e-7) << "output " << i;
    }
  });
}

TEST(OpTableReferences, GradientsAreFiniteDifferences) {
  for_each_example([&](const OpEntry& entry, const OpExample& example) {
    if (entry.loss != nullptr) return;
    OpCase c;
    c.name = entry.name;
    c.inputs = example.inputs;
    c.types = example.types;
    c.build = [&](GraphBuilder& b, const std::vector<ValueId>& inputs) {
      return b.append(example.attrs, inputs);
    };
    OpRun run(c);
    const Tensor64 direction = spread_values(run.forward().size(), 5);
    const OpRun::Gradients analytic = run.backward(direction);
    const auto value = [&] {
      const Tensor64 y = run.forward();
      double sum = 0;
      for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * direction[i];
      return sum;
    };
    const auto check = [&](std::vector<Tensor64>& tensors, const std::vector<Tensor64>& gradients) {
      for (std::size_t t = 0; t < tensors.size(); ++t)
        for (std::size_t e = tensors.size() == run.inputs.size() && &tensors == &run.inputs &&
                                     entry.traits.takes == DType::i32
                                 ? tensors[t].size()
                                 : 0;
             e < tensors[t].size(); e += 1 + tensors[t].size() / 40) {
          const double at_first = tensors[t][e], h = 1e-5;
          tensors[t][e] = at_first + h;
          const double above = value();
          tensors[t][e] = at_first - h;
          const double below = value();
          tensors[t][e] = at_first;
          // The error of the difference: h^2 / 6 of the third derivative, and rounding, 1e-16 / h of the sum.
          ASSERT_NEAR(gradients[t][e], (above - below) / (2 * h), 2e-6 * (1 + std::abs(gradients[t][e])))
              << "tensor " << t << ", element " << e;
        }
    };
    check(run.inputs, analytic.inputs);
    check(run.parameters, analytic.parameters);
  });
}

}  // namespace
}  // namespace lockstep::test
