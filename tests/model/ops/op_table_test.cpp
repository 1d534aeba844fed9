// Walks the table of ops: every entry, at each of its examples, on every device and in every precision.

#include "model/graph/op_table.h"

#include <gtest/gtest.h>

#include "core/numerics/precision.h"
#include "device/lane_pool.h"
#include "model/device_under_test.h"
#include "model/ops/loss/mean_squared_error.h"
#include "model/ops/norm/rms_norm.h"
#include "model/ops/op_run.h"
#include "support/process.h"

namespace lockstep::test {
namespace {

/// The op, or loss, behind an RMS norm, whose weight makes the gradient of the op's input count. Each input
/// of the op has a norm of its own.
Graph graph_around(const OpExample& example) {
  GraphBuilder b("example");
  const ValueId x = b.input(example.inputs[0]);
  std::vector<ValueId> inputs;
  for (const Shape& shape : example.inputs) {
    EXPECT_EQ(shape, example.inputs[0]) << "a graph has one input: give examples of equal shapes";
    inputs.push_back(b.append(RmsNormAttrs{1e-3}, {x}));
  }
  if (example.attrs.entry().loss != nullptr) return b.finish(inputs[0], example.attrs);
  return b.finish(b.append(example.attrs, inputs, "op"), MeanSquaredErrorAttrs{});
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
    if (!GetParam().missing.empty()) LOCKSTEP_SKIP_WITHOUT("gpu", GetParam().missing);
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

  /// What inference gives for these rows of input, in one slice of `rows` rows.
  std::vector<float> infer(const Graph& graph, const std::vector<float>& input, std::int64_t rows,
                           std::int64_t valid) const {
    ExecutorOptions options;
    options.slice_rows = rows;
    options.training = false;
    const auto executor = compile()(graph, options);
    const std::vector<float> flat = initial_flat(graph, *executor);
    std::vector<std::int64_t> samples(static_cast<std::size_t>(rows), -1);
    for (std::int64_t r = 0; r < valid; ++r) samples[static_cast<std::size_t>(r)] = r;
    const SliceBatch batch{0, rows, valid, samples, input, {}, {}};
    std::vector<float> output(static_cast<std::size_t>(rows * graph.shape_of(graph.output).elements()));
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
    const Data halves(graph, 2, 3, {3, 3});
    Data whole(graph, 1, 6, {6});
    const auto join = [](auto& to, const auto& from) {
      to = from[0];
      to.insert(to.end(), from[1].begin(), from[1].end());
    };
    join(whole.inputs[0], halves.inputs);
    join(whole.targets[0], halves.targets);
    join(whole.labels[0], halves.labels);
    join(whole.samples[0], halves.samples);
    whole.batches[0].input = whole.inputs[0];
    if (has_labels(graph))
      whole.batches[0].labels = whole.labels[0];
    else
      whole.batches[0].targets = whole.targets[0];
    whole.batches[0].samples = whole.samples[0];
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
    const std::int64_t rows = 4, valid = 2, in = example.inputs[0].elements();
    std::vector<float> input(static_cast<std::size_t>(rows * in), 0.0f);
    for (std::int64_t i = 0; i < valid * in; ++i)
      input[static_cast<std::size_t>(i)] = static_cast<float>(i % 7) - 3.5f;
    const std::vector<float> output = infer(graph, input, rows, valid);
    for (std::size_t i = output.size() / 2; i < output.size(); ++i) ASSERT_EQ(output[i], 0.0f);
  });
}

TEST_P(OpTableWalk, RowsDoNotDependOnTheirCompany) {
  for_each_example([&](const OpEntry& entry, const OpExample& example) {
    if (!entry.traits.independent) return;
    const Graph graph = graph_around(example);
    const auto in = static_cast<std::size_t>(example.inputs[0].elements());
    const auto out = static_cast<std::size_t>(graph.shape_of(graph.output).elements());
    const auto pattern = spread_values(3 * in, 77);
    const auto row_of = [&](std::size_t r) {
      std::vector<float> row(in);
      for (std::size_t i = 0; i < in; ++i)
        row[i] = static_cast<float>(pattern[(r * 5 + i * 3) % pattern.size()]);
      return row;
    };
    const std::vector<float> alone = infer(graph, row_of(0), 1, 1);
    for (const std::size_t rows : {2, 3, 7, 16, 17, 64, 257}) {
      std::vector<std::size_t> places = {0, rows / 2, rows - 1};
      for (const std::size_t place : places) {
        std::vector<float> input;
        for (std::size_t r = 0; r < rows; ++r) {
          const std::vector<float> row = row_of(r == place ? 0 : r + 1);
          input.insert(input.end(), row.begin(), row.end());
        }
        const std::vector<float> output =
            infer(graph, input, static_cast<std::int64_t>(rows), static_cast<std::int64_t>(rows));
        ASSERT_EQ(std::memcmp(output.data() + place * out, alone.data(), out * sizeof(float)), 0)
            << "row " << place << " of " << rows;
      }
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Devices, OpTableWalk, testing::ValuesIn(devices_under_test()),
                         [](const auto& info) { return info.param.name; });

TEST(OpTableOnTheCpu, LanesChangeNoBit) {
  for_each_example([&](const OpEntry&, const OpExample& example) {
    const Graph graph = graph_around(example);
    const Data data(graph, 4, 6, {6, 6, 6, 3});
    std::vector<float> first;
    for (const int count : {1, 2, 3}) {
      LanePool lanes(count);
      const Trained got = train_once(
          [&](const Graph& g, const ExecutorOptions& options) { return compile_cpu(g, options, lanes); },
          graph, data, 4, {0, 4});
      if (first.empty()) first = got.roots[0];
      ASSERT_EQ(std::memcmp(first.data(), got.roots[0].data(), first.size() * sizeof(float)), 0)
          << count << " lanes";
    }
  });
}

TEST(OpTableReferences, GradientsOfLossesAreFiniteDifferences) {
  for_each_example([&](const OpEntry& entry, const OpExample& example) {
    if (entry.loss == nullptr) return;
    const auto width = static_cast<std::size_t>(example.inputs[0].elements());
    Tensor64 x = spread_values(width, 1);
    std::vector<float> targets(width);
    for (std::size_t i = 0; i < width; ++i) targets[i] = 0.03f + 0.23f * static_cast<float>(i * 7 % 5);
    const auto label = static_cast<std::int32_t>(width / 2);
    const auto value = [&] {
      Tensor64 unused(width, 0.0);
      return entry.loss->row(example.attrs, width, x.data(), targets.data(), label, unused.data()).loss;
    };
    Tensor64 gradient(width, 0.0);
    entry.loss->row(example.attrs, width, x.data(), targets.data(), label, gradient.data());
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
        for (std::size_t e = 0; e < tensors[t].size(); e += 1 + tensors[t].size() / 40) {
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
