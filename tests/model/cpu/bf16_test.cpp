// Kernels of the CPU that take bf16: each example of the table and larger ones, in every combination of
// formats.

#include <gtest/gtest.h>

#include "model/cpu/kernel_run.h"
#include "model/cpu/kernels/kernel_table.h"
#include "model/cpu/plan.h"
#include "model/graph/op_table.h"
#include "model/ops/op_run.h"
#include "model/zoo/layers_line.h"
#include "model/zoo/zoo.h"
#include "support/malloc_count.h"
#include "support/process.h"

namespace lockstep::test {
namespace {

using cpu::KernelSpec;
using cpu::ValueLayout;

double as_bf16(double x) {
  return static_cast<double>(bf16_to_float(float_to_bf16(static_cast<float>(x))));
}

Tensor64 each(const Tensor64& values, double (*of)(double)) {
  Tensor64 out(values.size());
  std::transform(values.begin(), values.end(), out.begin(), of);
  return out;
}
double magnitude_of(double x) {
  return std::abs(x);
}
double same(double x) {
  return x;
}

struct Case {
  std::string name;
  OpAttrs attrs;
  Shape input;
  std::int64_t rows = 5;
  bool relu = false;
  NumberFormat in = NumberFormat::fp32, out = NumberFormat::fp32;
  bool long_reference = false;  ///< then not in every combination
};

void PrintTo(const Case& c, std::ostream* os) {
  *os << c.name;
}

std::vector<Case> cases() {
  std::vector<Case> shapes;
  for (const OpEntry* entry : op_table()) {
    if (!entry->traits.takes_bf16) continue;
    int i = 0;
    for (const OpExample& example : entry->examples())
      shapes.push_back(
          {entry->name + std::string("_example") + std::to_string(i++), example.attrs, example.inputs.at(0)});
  }
  // Parts, weights prepared in pieces, odd sizes, sums of thousands of terms.
  shapes.push_back({"dense_in_parts", DenseAttrs{1024, true}, {768}, 64});
  shapes.push_back({"dense_prepared_in_pieces", DenseAttrs{2048, false}, {1024}, 3});
  shapes.push_back({"dense_long_sum", DenseAttrs{10, true}, {5408}, 33});
  shapes.push_back({"dense_odd", DenseAttrs{65, true}, {131}, 17});
  shapes.push_back({"dense_one", DenseAttrs{1, true}, {1}, 1});
  shapes.push_back({"conv_first", conv(64, 3, 3, 1, 1), {3, 32, 32}, 4});
  shapes.push_back({"conv_first_grey", conv(32, 3, 3), {1, 28, 28}, 5});
  shapes.push_back({"conv_parts_by_rows", conv(32, 3, 3, 1, 1, 1, false), {32, 16, 16}, 7});
  shapes.push_back({"conv_weights_beside_parts", conv(64, 3, 3, 2, 1), {64, 20, 20}, 9});
  shapes.push_back({"conv_many_weights", conv(128, 3, 3, 1, 1, 1, false), {128, 4, 4}, 6});
  shapes.push_back({"conv_pointwise_stride_2", conv(64, 1, 1, 2), {32, 8, 8}, 3});
  shapes.push_back({"conv_depthwise", conv(32, 3, 3, 1, 1, 32), {32, 7, 7}, 3});
  shapes.push_back({"conv_odd", conv(7, 3, 3, 1, 1), {5, 6, 7}, 3});
  for (Case& shape : shapes) shape.long_reference = shape.name.find("_parts") != std::string::npos;
  std::vector<Case> out;
  for (const Case& shape : shapes)
    for (const bool relu : {false, true})
      for (const NumberFormat in : {NumberFormat::fp32, NumberFormat::bf16})
        for (const NumberFormat result : {NumberFormat::fp32, NumberFormat::bf16}) {
          if (shape.long_reference && (in != result || relu != (in == NumberFormat::fp32))) continue;
          Case c = shape;
          c.relu = relu;
          c.in = in;
          c.out = result;
          const auto format = [](NumberFormat f) { return f == NumberFormat::bf16 ? "bf16" : "fp32"; };
          c.name += std::string(relu ? "_relu_" : "_") + format(in) + "_" + format(result);
          out.push_back(std::move(c));
        }
  return out;
}

ValueLayout layout_of(const Shape& shape, NumberFormat format, bool channels_last) {
  ValueLayout layout{shape.elements(), 1, 1, 1, format};
  if (shape.rank() == 3) layout = {shape[0], shape[1], shape[2], channels_last ? shape[0] : 1, format};
  return layout;
}

/// One op with its data, and what the float64 reference makes of them.
struct Bf16Run {
  explicit Bf16Run(const Case& of) : c(of), graph(graph_with(of)) {
    const OpNode& node = graph.nodes[0];
    spec.graph = &graph;
    spec.node = 0;
    spec.rows = c.rows;
    spec.lanes = 3;
    spec.relu = c.relu;
    spec.precision = Precision::bf16;
    spec.inputs = {layout_of(c.input, c.in, c.input.rank() == 3 && c.input[0] > 3)};
    spec.output = layout_of(graph.shape_of(node.output), c.out, true);
    std::uint32_t seed = 1;
    input = random_floats(c.rows * c.input.elements(), seed++);
    diff = random_floats(c.rows * graph.shape_of(node.output).elements(), seed++);
    for (const int p : node.parameters)
      parameters.push_back(
          random_floats(graph.parameters[static_cast<std::size_t>(p)].shape.elements(), seed++));
  }
  Bf16Run(const Bf16Run&) = delete;

  static Graph graph_with(const Case& c) {
    return graph_of({c.name, {c.input}, [&](GraphBuilder& b, const std::vector<ValueId>& inputs) {
                       return b.append(c.attrs, inputs);
                     }});
  }

  struct Result {
    Tensor64 output, diff_input;
    std::vector<Tensor64> gradients;
  };
  /// The definition in float64, of factors as `factor` gives them; the bias is no factor. `gate`: the output
  /// whose sign says what passes the ReLU backwards; empty: all does.
  Result reference(double (*factor)(double), const std::vector<float>& gate, double (*bias)(double)) const {
    const OpNode& node = graph.nodes[0];
    const OpEntry& entry = node.attrs.entry();
    const std::vector<std::int64_t> samples(static_cast<std::size_t>(c.rows), 0);
    const ReferenceContext ctx{c.rows, c.rows, samples, 0, 0, 0, true};
    const Tensor64 x = each({input.begin(), input.end()}, factor);
    std::vector<Tensor64> values;
    for (std::size_t i = 0; i < parameters.size(); ++i)
      values.push_back(each({parameters[i].begin(), parameters[i].end()}, i == 0 ? factor : bias));
    Tensor64 g(diff.begin(), diff.end());
    for (std::size_t i = 0; i < gate.size(); ++i)
      if (!(gate[i] > 0.0f)) g[i] = 0;
    g = each(g, factor);
    std::vector<const Tensor64*> of_values;
    for (const Tensor64& v : values) of_values.push_back(&v);
    Result out;
    std::vector<Tensor64> unused;
    entry.forward(node, graph, ctx, {&x}, of_values, {}, out.output, unused);
    out.diff_input.assign(x.size(), 0.0);
    for (const Tensor64& v : values) out.gradients.emplace_back(v.size(), 0.0);
    std::vector<Tensor64*> gradients;
    for (Tensor64& v : out.gradients) gradients.push_back(&v);
    entry.backward(node, graph, ctx, {&x}, of_values, out.output, g, {&out.diff_input}, gradients);
    if (c.relu)
      for (double& y : out.output) y = std::max(y, 0.0);
    return out;
  }

  Case c;
  Graph graph;
  KernelSpec spec;
  std::vector<float> input, diff;  ///< not rounded
  std::vector<std::vector<float>> parameters;
};

/// Against the float64 reference of rounded factors: a sum of n exact products in float32, in any order, is
/// off by at most (n + 2) 2^-24 of the sum of their sizes, and a result that is stored in bf16 by 2^-8 of
/// itself more. Against the exact result, all errors together are at most four times those of the float64
/// reference whose factors and result are rounded alike.
void expect_rounded(const std::vector<float>& got, const Tensor64& rounded, const Tensor64& exact,
                    const Tensor64& magnitude, std::int64_t terms, NumberFormat stored,
                    const std::string& what) {
  ASSERT_EQ(got.size(), rounded.size()) << what;
  double error = 0, allowed = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const auto x = static_cast<double>(got[i]);
    ASSERT_TRUE(std::isfinite(x)) << what;
    const double sum = static_cast<double>(terms + 2) * unit_roundoff_fp32 * magnitude[i];
    const double last =
        stored == NumberFormat::bf16 ? unit_roundoff_bf16 * (std::abs(rounded[i]) + sum) : 0.0;
    ASSERT_LE(std::abs(x - rounded[i]), sum + last + 1e-37)
        << what << ": element " << i << " of " << got.size();
    const double alike = stored == NumberFormat::bf16 ? as_bf16(rounded[i]) : rounded[i];
    error += std::pow(x - exact[i], 2);
    allowed += std::pow(alike - exact[i], 2);
  }
  EXPECT_LE(std::sqrt(error), 4 * std::sqrt(allowed)) << what;
}

class CpuBf16 : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (const std::string problem = cpu_bf16_problem(); !problem.empty())
      LOCKSTEP_SKIP_WITHOUT("bf16", problem);
  }
};
INSTANTIATE_TEST_SUITE_P(Table, CpuBf16, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(CpuBf16, AgreesWithTheReferenceOfRoundedFactors) {
  const Bf16Run of(GetParam());
  std::vector<std::vector<float>> first;
  for (const bool backwards : {false, true}) {
    LanePool pool(backwards ? 3 : 2);
    KernelRun run(cpu::make_kernel(of.spec), of.spec);
    for (std::size_t i = 0; i < of.parameters.size(); ++i) run.set_parameter(i, of.parameters[i]);
    run.set_input(of.input);
    run.set_diff_output(of.diff);
    run.prepare(pool, backwards);
    run.forward(pool, backwards);
    const std::vector<float> output = run.output();
    run.backward(pool, backwards);
    EXPECT_TRUE(run.canaries_live());
    std::vector<std::vector<float>> got = {output, run.diff_input()};
    for (std::size_t i = 0; i < of.parameters.size(); ++i)
      got.push_back(run.gradient(i, of.parameters[i].size()));
    if (backwards) {
      for (std::size_t i = 0; i < got.size(); ++i)
        EXPECT_TRUE(same_bits(got[i], first[i])) << "tensor " << i << " depends on lanes or order";
      return;
    }
    first = got;
    const std::vector<float> gate = of.c.relu ? output : std::vector<float>{};
    const Bf16Run::Result rounded = of.reference(as_bf16, gate, same);
    const Bf16Run::Result exact = of.reference(same, gate, same);
    const Bf16Run::Result size = of.reference(magnitude_of, gate, magnitude_of);
    const auto shape = of.graph.parameters[0].shape;
    const std::int64_t outputs = shape[0], products = shape.elements() / outputs;
    const auto results = static_cast<std::int64_t>(of.diff.size());
    expect_rounded(got[0], rounded.output, exact.output, size.output, products + 1, of.c.out, "output");
    expect_rounded(got[1], rounded.diff_input, exact.diff_input, size.diff_input, shape.elements(), of.c.in,
                   "gradient of the input");
    expect_rounded(got[2], rounded.gradients[0], exact.gradients[0], size.gradients[0], results / outputs,
                   NumberFormat::fp32, "gradient of the weight");
    if (got.size() > 3)
      expect_rounded(got[3], rounded.gradients[1], exact.gradients[1], size.gradients[1], results / outputs,
                     NumberFormat::fp32, "gradient of the bias");
  }
}

TEST(CpuBf16Kernels, SteadyStepsAllocateNothing) {
  if (const std::string problem = cpu_bf16_problem(); !problem.empty())
    LOCKSTEP_SKIP_WITHOUT("bf16", problem);
  if (!malloc_is_counted()) GTEST_SKIP() << "this build has a malloc of its own";
  for (const Case& c : cases()) {
    const Bf16Run of(c);
    LanePool pool(1);
    KernelRun run(cpu::make_kernel(of.spec), of.spec);
    if (library_takes_buffers(run.kernel().implementation())) continue;
    for (std::size_t i = 0; i < of.parameters.size(); ++i) run.set_parameter(i, of.parameters[i]);
    run.set_input(of.input);
    run.set_diff_output(of.diff);
    const auto step = [&] {
      run.prepare(pool);
      run.forward(pool);
      run.backward(pool);
    };
    step();
    const std::size_t before = malloc_count();
    step();
    EXPECT_EQ(malloc_count() - before, 0u) << c.name << ": " << run.kernel().implementation();
  }
}

/// The formats of the values that ops make, in the order of the ops.
std::string formats_of(const std::string& layers) {
  const Graph graph = build_layers(layers, {3, 16, 16}, 0, CrossEntropyAttrs{});
  std::string text;
  const cpu::Plan plan = cpu::make_plan(graph, 4, true, 1, Precision::bf16);
  for (const cpu::PlannedOp& op : plan.ops)
    text += plan.layouts[static_cast<std::size_t>(op.output)].format == NumberFormat::bf16 ? "b" : "f";
  return text;
}

TEST(CpuBf16Plan, ValuesBetweenOpsThatTakeBf16AreStoredSo) {
  if (const std::string problem = cpu_bf16_problem(); !problem.empty())
    LOCKSTEP_SKIP_WITHOUT("bf16", problem);
  EXPECT_EQ(formats_of("flatten dense:32 relu dense:16 dense:5"), "fbbf");
  EXPECT_EQ(formats_of("conv:8x3 relu conv:8x3 bn relu conv:8x3 flatten dense:5"), "bfffff");
  EXPECT_EQ(formats_of("flatten dense:32 gelu dense:5"), "ffff");
}

TEST(CpuBf16Plan, ItsActivationsTakeLessMemory) {
  if (const std::string problem = cpu_bf16_problem(); !problem.empty())
    LOCKSTEP_SKIP_WITHOUT("bf16", problem);
  std::string layers;
  for (int i = 0; i < 10; ++i) layers += "conv:32x3,pad=1 relu ";
  const Graph graph = build_layers(layers + "flatten dense:10", {3, 16, 16}, 0, CrossEntropyAttrs{});
  const cpu::Plan fp32 = cpu::make_plan(graph, 8, true, 1);
  const cpu::Plan bf16 = cpu::make_plan(graph, 8, true, 1, Precision::bf16);
  EXPECT_LT(static_cast<double>(bf16.arena_bytes), 0.75 * static_cast<double>(fp32.arena_bytes));
  EXPECT_EQ(fp32.precision, Precision::fp32);
  for (const ValueLayout& layout : fp32.layouts) EXPECT_EQ(layout.format, NumberFormat::fp32);
}

}  // namespace
}  // namespace lockstep::test
