#include "model/ops/linear/dense.h"

#include <gtest/gtest.h>

#include "model/cpu/kernel_run.h"
#include "model/cpu/kernels/kernel_table.h"
#include "support/malloc_count.h"

namespace lockstep::test {
namespace {

using cpu::KernelSpec;

struct Case {
  std::int64_t rows, in, out;
  bool bias = true, relu = false, diff_input = true;
};

void PrintTo(const Case& c, std::ostream* os) {
  *os << c.in << "-" << c.out << " rows " << c.rows;
}

struct DenseNode {
  explicit DenseNode(const Case& c) {
    graph.values = {{Shape{c.in}, -1}, {Shape{c.out}, 0}};
    graph.inputs = {0};
    OpNode node;
    node.name = "dense";
    node.attrs = DenseAttrs{c.out, c.bias};
    node.inputs = {0};
    node.output = 1;
    node.parameters = {0};
    graph.parameters.push_back({"dense.weight", Shape{c.out, c.in}});
    if (c.bias) {
      node.parameters.push_back(1);
      graph.parameters.push_back({"dense.bias", Shape{c.out}});
    }
    graph.nodes.push_back(node);
    graph.output = 1;
    spec.graph = &graph;
    spec.node = 0;
    spec.rows = c.rows;
    spec.lanes = 3;
    spec.relu = c.relu;
    spec.diff_input = c.diff_input;
    spec.inputs = {{c.in, 1, 1, 1}};
    spec.output = {c.out, 1, 1, 1};
  }
  DenseNode(const DenseNode&) = delete;
  Graph graph;
  KernelSpec spec;
};

struct Data {
  explicit Data(const Case& c)
      : input(random_floats(c.rows * c.in, 1)),
        weights(random_floats(c.out * c.in, 2)),
        bias(random_floats(c.out, 3)),
        diff(random_floats(c.rows * c.out, 4)) {}
  std::vector<float> input, weights, bias, diff;
};

void load(KernelRun& run, const Case& c, const Data& data) {
  run.set_parameter(0, data.weights);
  if (c.bias) run.set_parameter(1, data.bias);
  run.set_input(data.input);
  run.set_diff_output(data.diff);
}

std::vector<Case> cases() {
  std::vector<Case> out;
  const std::pair<std::int64_t, std::int64_t> sizes[] = {
      {1, 1},     {10, 10},  {10, 1},  {784, 10},   {845, 10},  {784, 128},  {48, 64},     {128, 64},
      {200, 192}, {64, 100}, {33, 65}, {1024, 512}, {784, 768}, {640, 1024}, {1024, 1000}, {1, 64}};
  for (const auto& [in, o] : sizes)
    for (const std::int64_t rows : {1, 5, 64}) {
      const auto i = static_cast<int>(out.size());
      out.push_back({rows, in, o, i % 2 == 0, i % 3 != 0, i % 5 != 0});
      out.push_back({rows, in, o, i % 2 != 0, i % 3 == 0, true});
    }
  out.push_back({5, 1024, 2048, true, true});  // its weights are prepared in pieces
  return out;
}

class CpuDense : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Shapes, CpuDense, testing::ValuesIn(cases()), [](const auto& info) {
  const Case& c = info.param;
  return std::to_string(c.in) + "_" + std::to_string(c.out) + "_rows" + std::to_string(c.rows) +
         (c.bias ? "_bias" : "") + (c.relu ? "_relu" : "") + (c.diff_input ? "" : "_first") + "_" +
         std::to_string(info.index);
});

TEST_P(CpuDense, ForwardAndGradientsAreThoseOfTheDefinition) {
  const Case& c = GetParam();
  const DenseNode node(c);
  const Data data(c);
  LanePool pool(2);
  KernelRun run(cpu::make_dense(node.spec), node.spec);
  load(run, c, data);
  run.prepare(pool);
  run.forward(pool);
  const std::vector<float> output = run.output();
  const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };

  std::vector<double> value(output.size(), 0), magnitude(output.size(), 0);
  for (std::int64_t n = 0; n < c.rows; ++n)
    for (std::int64_t o = 0; o < c.out; ++o) {
      double sum = c.bias ? data.bias[at(o)] : 0.0, size = std::abs(sum);
      for (std::int64_t i = 0; i < c.in; ++i) {
        const double product =
            static_cast<double>(data.input[at(n * c.in + i)]) * data.weights[at(o * c.in + i)];
        sum += product;
        size += std::abs(product);
      }
      value[at(n * c.out + o)] = c.relu ? std::max(sum, 0.0) : sum;
      magnitude[at(n * c.out + o)] = size;
    }
  expect_close(output, value, magnitude, c.in, "output");

  run.backward(pool);
  EXPECT_TRUE(run.canaries_live());
  std::vector<double> diff(data.diff.begin(), data.diff.end());
  if (c.relu)
    for (std::size_t i = 0; i < diff.size(); ++i)
      if (!(output[i] > 0)) diff[i] = 0;
  std::vector<double> weights(data.weights.size(), 0), weights_size(weights), bias(data.bias.size(), 0),
      bias_size(bias), input(data.input.size(), 0), input_size(input);
  for (std::int64_t n = 0; n < c.rows; ++n)
    for (std::int64_t o = 0; o < c.out; ++o) {
      const double d = diff[at(n * c.out + o)];
      bias[at(o)] += d;
      bias_size[at(o)] += std::abs(d);
      for (std::int64_t i = 0; i < c.in; ++i) {
        const double dw = d * data.input[at(n * c.in + i)], dx = d * data.weights[at(o * c.in + i)];
        weights[at(o * c.in + i)] += dw;
        weights_size[at(o * c.in + i)] += std::abs(dw);
        input[at(n * c.in + i)] += dx;
        input_size[at(n * c.in + i)] += std::abs(dx);
      }
    }
  expect_close(run.gradient(0, weights.size()), weights, weights_size, c.rows, "weight gradient");
  if (c.bias) expect_close(run.gradient(1, bias.size()), bias, bias_size, c.rows, "bias gradient");
  if (c.diff_input) expect_close(run.diff_input(), input, input_size, c.out, "input gradient");
}

void expect_bits_independent_of_lanes(const Case& c) {
  const DenseNode node(c);
  const Data data(c);
  std::vector<std::vector<float>> first;
  for (const int lanes : {1, 2, 3}) {
    LanePool pool(lanes);
    KernelRun run(cpu::make_dense(node.spec), node.spec);
    load(run, c, data);
    run.prepare(pool, lanes == 2);
    run.forward(pool, lanes == 2);
    run.backward(pool, lanes != 3);
    std::vector<std::vector<float>> all{run.output(), run.gradient(0, data.weights.size())};
    if (c.bias) all.push_back(run.gradient(1, data.bias.size()));
    if (c.diff_input) all.push_back(run.diff_input());
    if (first.empty()) first = all;
    for (std::size_t i = 0; i < all.size(); ++i)
      EXPECT_TRUE(same_bits(all[i], first[i])) << lanes << " lanes, tensor " << i;
  }
}

TEST(CpuDenseAll, BitsDoNotDependOnLanesOrTaskOrder) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::PrintToString(c));
    expect_bits_independent_of_lanes(c);
  }
}

void expect_one_storage(const Case& c) {
  const DenseNode node(c);
  const Data data(c);
  const auto train = cpu::make_dense(node.spec);
  Case other = c;
  other.rows = c.rows * 3 + 1;
  const DenseNode node_other(other);
  KernelSpec spec = node_other.spec;
  spec.training = false;
  const auto infer = cpu::make_dense(spec);
  ASSERT_EQ(train->needs().parameter_storage, infer->needs().parameter_storage);
  EXPECT_TRUE(infer->backward_phases().empty());
  const auto stored_size = static_cast<std::size_t>(train->needs().parameter_storage[0]);
  EXPECT_EQ(stored_size, data.weights.size());  // no padding that an optimizer could move
  std::vector<float> stored(stored_size, -1.0f), plain(data.weights.size());
  train->import_plain(0, data.weights, stored);
  infer->export_plain(0, stored, plain);
  EXPECT_TRUE(same_bits(plain, data.weights));
}

TEST(CpuDenseAll, TrainingAndInferenceReadTheSameStoredWeights) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::PrintToString(c));
    expect_one_storage(c);
  }
}

/// False where the library itself takes memory.
bool expect_no_allocation(const Case& c) {
  const DenseNode node(c);
  LanePool pool(2);
  KernelRun run(cpu::make_dense(node.spec), node.spec);
  if (library_takes_buffers(run.kernel().implementation())) return false;
  load(run, c, Data(c));
  const auto step = [&] {
    run.prepare(pool);
    run.forward(pool);
    run.backward(pool);
  };
  step();
  const std::size_t before = malloc_count();
  step();
  step();
  EXPECT_EQ(malloc_count() - before, 0u) << run.kernel().implementation();
  return true;
}

TEST(CpuDenseAll, SteadyStepsAllocateNothing) {
  if (!malloc_is_counted()) GTEST_SKIP() << "this build has a malloc of its own";
  int checked = 0;
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::PrintToString(c));
    if (expect_no_allocation(c)) ++checked;
  }
  if (checked == 0) GTEST_SKIP() << "on this machine oneDNN has only its general matrix product";
}

}  // namespace
}  // namespace lockstep::test
