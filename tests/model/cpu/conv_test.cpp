#include <gtest/gtest.h>

#include "model/cpu/kernel_run.h"
#include "model/cpu/kernels/kernel_table.h"
#include "model/ops/linear/conv2d.h"
#include "support/malloc_count.h"

namespace lockstep::test {
namespace {

using cpu::KernelSpec;
using cpu::ValueLayout;

/// `block` of 0: as the plan would lay it out.
struct Case {
  const char* name;
  std::int64_t rows, in, h, w, out, kh, kw, sh = 1, sw = 1, ph = 0, pw = 0, groups = 1;
  bool bias = true, relu = false, diff_input = true;
  std::int64_t in_block = 0, out_block = 0;

  std::int64_t out_h() const { return (h + 2 * ph - kh) / sh + 1; }
  std::int64_t out_w() const { return (w + 2 * pw - kw) / sw + 1; }
};

void PrintTo(const Case& c, std::ostream* os) {
  *os << c.name;
}

ValueLayout layout(std::int64_t channels, std::int64_t h, std::int64_t w, std::int64_t block) {
  if (block == 0) {
    const std::int64_t preferred = cpu::preferred_channel_block();
    block = preferred == 0 ? channels : (channels % preferred == 0 ? preferred : 1);
  }
  return {channels, h, w, block};
}

struct Conv {
  explicit Conv(const Case& c) : graph(make_graph(c)), spec(make_spec(c, graph)) {}

  static Graph make_graph(const Case& c) {
    Graph graph;
    graph.values = {{Shape{c.in, c.h, c.w}, -1}, {Shape{c.out, c.out_h(), c.out_w()}, 0}};
    graph.inputs = {0};
    OpNode node;
    node.name = "conv";
    node.attrs = Conv2dAttrs{c.out, c.kh, c.kw, c.sh, c.sw, c.ph, c.pw, c.groups, c.bias};
    node.inputs = {0};
    node.output = 1;
    node.parameters = {0};
    graph.parameters.push_back({"conv.weight", Shape{c.out, c.in / c.groups, c.kh, c.kw}});
    if (c.bias) {
      node.parameters.push_back(1);
      graph.parameters.push_back({"conv.bias", Shape{c.out}});
    }
    graph.nodes.push_back(node);
    graph.output = 1;
    return graph;
  }
  static KernelSpec make_spec(const Case& c, const Graph& graph) {
    KernelSpec spec;
    spec.graph = &graph;
    spec.node = 0;
    spec.rows = c.rows;
    spec.lanes = 3;
    spec.relu = c.relu;
    spec.diff_input = c.diff_input;
    spec.inputs = {layout(c.in, c.h, c.w, c.in_block)};
    spec.output = layout(c.out, c.out_h(), c.out_w(), c.out_block);
    return spec;
  }

  Graph graph;
  KernelSpec spec;
};

/// A sum with the sum of its terms' magnitudes.
struct Sums {
  std::vector<double> value, magnitude;
  explicit Sums(std::size_t n) : value(n, 0.0), magnitude(n, 0.0) {}
  void add(std::int64_t i, double x) {
    value[static_cast<std::size_t>(i)] += x;
    magnitude[static_cast<std::size_t>(i)] += std::abs(x);
  }
};

/// Calls visit(output index, input index, weight index) for every product of the definition of a convolution
/// (cross-correlation with zeros around the image).
template <class Visit>
void for_each_product(const Case& c, Visit&& visit) {
  const std::int64_t group_in = c.in / c.groups, group_out = c.out / c.groups;
  for (std::int64_t n = 0; n < c.rows; ++n)
    for (std::int64_t o = 0; o < c.out; ++o)
      for (std::int64_t y = 0; y < c.out_h(); ++y)
        for (std::int64_t x = 0; x < c.out_w(); ++x)
          for (std::int64_t i = 0; i < group_in; ++i)
            for (std::int64_t ky = 0; ky < c.kh; ++ky)
              for (std::int64_t kx = 0; kx < c.kw; ++kx) {
                const std::int64_t iy = y * c.sh + ky - c.ph, ix = x * c.sw + kx - c.pw;
                if (iy < 0 || iy >= c.h || ix < 0 || ix >= c.w) continue;
                const std::int64_t channel = o / group_out * group_in + i;
                visit(((n * c.out + o) * c.out_h() + y) * c.out_w() + x,
                      ((n * c.in + channel) * c.h + iy) * c.w + ix,
                      ((o * group_in + i) * c.kh + ky) * c.kw + kx);
              }
}

struct Data {
  explicit Data(const Case& c)
      : input(random_floats(c.rows * c.in * c.h * c.w, 1)),
        weights(random_floats(c.out * (c.in / c.groups) * c.kh * c.kw, 2)),
        bias(random_floats(c.out, 3)),
        diff(random_floats(c.rows * c.out * c.out_h() * c.out_w(), 4)) {}
  std::vector<float> input, weights, bias, diff;
};

void load(KernelRun& run, const Case& c, const Data& data) {
  run.set_parameter(0, data.weights);
  if (c.bias) run.set_parameter(1, data.bias);
  run.set_input(data.input);
  run.set_diff_output(data.diff);
}

std::vector<Case> cases() {
  std::vector<Case> out{
      {"plain_3x3", 2, 16, 8, 8, 32, 3, 3},
      {"padded", 3, 16, 7, 9, 16, 3, 3, 1, 1, 1, 1},
      {"stride_2", 2, 32, 9, 9, 16, 3, 3, 2, 2, 1, 1},
      {"stride_differs", 2, 16, 11, 10, 16, 3, 3, 2, 1, 1, 0},
      {"pointwise", 3, 32, 5, 5, 48, 1, 1},
      {"pointwise_stride_2", 3, 32, 8, 8, 64, 1, 1, 2, 2},
      {"one_pixel", 4, 32, 1, 1, 16, 1, 1},
      {"image_1_channel", 5, 1, 28, 28, 32, 3, 3},
      {"image_3_channels", 2, 3, 32, 32, 64, 3, 3, 1, 1, 1, 1},
      {"lenet_first", 4, 1, 28, 28, 6, 5, 5, 1, 1, 2, 2},
      {"lenet_second", 4, 6, 14, 14, 16, 5, 5},
      {"odd_channels", 3, 5, 6, 7, 7, 3, 3, 1, 1, 1, 1},
      {"row_kernel", 2, 5, 6, 9, 7, 1, 3, 1, 1, 0, 1},
      {"column_kernel", 2, 16, 9, 5, 16, 5, 1, 1, 1, 2, 0},
      {"kernel_is_image", 3, 16, 4, 6, 32, 4, 6},
      {"one_output", 2, 16, 6, 6, 1, 3, 3},
      {"one_to_one", 1, 1, 5, 5, 1, 3, 3, 1, 1, 1, 1},
      {"two_groups", 2, 32, 7, 7, 64, 3, 3, 1, 1, 1, 1, 2},
      {"two_small_groups", 3, 8, 7, 7, 12, 3, 3, 1, 1, 1, 1, 2},
      {"groups_within_block", 2, 32, 6, 6, 32, 3, 3, 1, 1, 1, 1, 4},
      {"depthwise", 3, 32, 7, 7, 32, 3, 3, 1, 1, 1, 1, 32},
      {"depthwise_odd", 2, 7, 7, 7, 7, 3, 3, 2, 2, 1, 1, 7},
      {"depthwise_doubled", 2, 16, 6, 6, 32, 3, 3, 1, 1, 0, 0, 16},
      {"one_row", 1, 16, 12, 12, 32, 3, 3, 1, 1, 1, 1},
      {"large_kernel", 2, 3, 20, 20, 16, 11, 11, 4, 4, 2, 2},
      {"uneven_parts_by_rows", 7, 32, 16, 16, 32, 3, 3, 1, 1, 1, 1},
      {"parts_by_rows", 8, 64, 14, 14, 64, 3, 3, 1, 1, 1, 1},
      {"parts_by_channels", 6, 128, 6, 6, 128, 3, 3, 1, 1, 1, 1},
      {"parts_by_channels_uneven_rows", 9, 64, 8, 8, 192, 3, 3, 2, 2, 1, 1},
      {"weights_prepared_in_pieces", 4, 256, 4, 4, 256, 3, 3, 1, 1, 1, 1},
      {"late_without_channel_parts", 5, 128, 6, 6, 112, 3, 3, 1, 1, 1, 1},
  };
  const std::size_t plain = out.size();
  for (std::size_t i = 0; i < plain; ++i) {
    Case c = out[i];
    c.bias = i % 2 == 0;
    c.relu = true;
    out.push_back(c);
    c.bias = !c.bias;
    c.relu = i % 3 == 0;
    c.diff_input = false;
    out.push_back(c);
  }
  for (const char* name : {"plain", "nhwc"}) {
    const bool last = std::string(name) == "nhwc";
    out.push_back(
        {name, 3, 16, 8, 7, 32, 3, 3, 1, 1, 1, 1, 1, true, true, true, last ? 16 : 1, last ? 32 : 1});
    out.push_back(
        {name, 6, 128, 6, 6, 128, 3, 3, 1, 1, 1, 1, 1, true, true, true, last ? 128 : 1, last ? 128 : 1});
    out.push_back(
        {name, 2, 6, 9, 9, 10, 3, 3, 2, 2, 0, 0, 1, true, false, true, last ? 6 : 1, last ? 10 : 1});
  }
  out.push_back({"blocks_of_8", 3, 24, 8, 8, 40, 3, 3, 1, 1, 1, 1, 1, true, true, true, 8, 8});
  return out;
}

class CpuConv : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Shapes, CpuConv, testing::ValuesIn(cases()), [](const auto& info) {
  const Case& c = info.param;
  return std::string(c.name) + (c.bias ? "_bias" : "") + (c.relu ? "_relu" : "") +
         (c.diff_input ? "" : "_first") + "_" + std::to_string(info.index);
});

TEST_P(CpuConv, ForwardAndGradientsAreThoseOfTheDefinition) {
  const Case& c = GetParam();
  const Conv conv(c);
  const Data data(c);
  LanePool pool(2);
  KernelRun run(cpu::make_conv2d(conv.spec), conv.spec);
  load(run, c, data);
  run.prepare(pool);
  run.forward(pool);
  const std::vector<float> output = run.output();

  Sums forward(output.size());
  const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
  if (c.bias)
    for (std::size_t i = 0; i < output.size(); ++i)
      forward.add(static_cast<std::int64_t>(i), data.bias[i / at(c.out_h() * c.out_w()) % at(c.out)]);
  for_each_product(c, [&](std::int64_t o, std::int64_t i, std::int64_t w) {
    forward.add(o, static_cast<double>(data.input[at(i)]) * data.weights[at(w)]);
  });
  if (c.relu)
    for (double& y : forward.value) y = std::max(y, 0.0);
  const std::int64_t terms = c.in / c.groups * c.kh * c.kw;
  expect_close(output, forward.value, forward.magnitude, terms, "output");

  run.backward(pool);
  EXPECT_TRUE(run.canaries_live());
  std::vector<double> diff(data.diff.begin(), data.diff.end());
  if (c.relu)
    for (std::size_t i = 0; i < diff.size(); ++i)
      if (!(output[i] > 0))
        diff[i] = 0;  // the kernel's own output, checked above: the sign near 0 is rounding
  Sums weights(data.weights.size()), bias(data.bias.size()), input(data.input.size());
  for (std::size_t i = 0; i < diff.size(); ++i)
    bias.add(static_cast<std::int64_t>(i / at(c.out_h() * c.out_w()) % at(c.out)), diff[i]);
  for_each_product(c, [&](std::int64_t o, std::int64_t i, std::int64_t w) {
    weights.add(w, diff[at(o)] * data.input[at(i)]);
    input.add(i, diff[at(o)] * data.weights[at(w)]);
  });
  const std::int64_t pixels = c.rows * c.out_h() * c.out_w();
  expect_close(run.gradient(0, data.weights.size()), weights.value, weights.magnitude, pixels,
               "weight gradient");
  if (c.bias)
    expect_close(run.gradient(1, data.bias.size()), bias.value, bias.magnitude, pixels, "bias gradient");
  if (c.diff_input)
    expect_close(run.diff_input(), input.value, input.magnitude, c.out / c.groups * c.kh * c.kw,
                 "input gradient");
}

void expect_bits_independent_of_lanes(const Case& c) {
  const Conv conv(c);
  const Data data(c);
  std::vector<std::vector<float>> first;
  for (const int lanes : {1, 2, 3}) {
    LanePool pool(lanes);
    KernelRun run(cpu::make_conv2d(conv.spec), conv.spec);
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

TEST(CpuConvAll, BitsDoNotDependOnLanesOrTaskOrder) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::PrintToString(c));
    expect_bits_independent_of_lanes(c);
  }
}

void expect_one_storage(const Case& c) {
  const Conv conv(c);
  const Data data(c);
  LanePool pool(1);
  KernelRun train(cpu::make_conv2d(conv.spec), conv.spec);
  Case other = c;
  other.rows = c.rows * 2 + 1;
  const Conv conv_other(other);
  KernelSpec spec = conv_other.spec;
  spec.training = false;
  const auto infer = cpu::make_conv2d(spec);
  ASSERT_EQ(train.kernel().needs().parameter_storage, infer->needs().parameter_storage);
  EXPECT_TRUE(infer->backward_phases().empty());

  // Plain to stored by one, stored to plain by the other.
  const auto stored_size = static_cast<std::size_t>(train.kernel().needs().parameter_storage[0]);
  std::vector<float> stored(stored_size, -1.0f), plain(data.weights.size());
  train.kernel().import_plain(0, data.weights, stored);
  infer->export_plain(0, stored, plain);
  EXPECT_TRUE(same_bits(plain, data.weights));
  // No element is padding: an optimizer can move none away from zero.
  EXPECT_EQ(stored_size, data.weights.size());

  spec.rows = c.rows;
  spec.inputs = conv.spec.inputs;
  spec.graph = &conv.graph;
  KernelRun same_rows(cpu::make_conv2d(spec), spec);
  load(train, c, data);
  load(same_rows, c, data);
  train.prepare(pool);
  same_rows.prepare(pool);
  train.forward(pool);
  same_rows.forward(pool);
  EXPECT_TRUE(same_bits(train.output(), same_rows.output()));
}

TEST(CpuConvAll, TrainingAndInferenceReadTheSameStoredWeights) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::PrintToString(c));
    expect_one_storage(c);
  }
}

/// False where the library itself takes memory.
bool expect_no_allocation(const Case& c) {
  const Conv conv(c);
  LanePool pool(2);
  KernelRun run(cpu::make_conv2d(conv.spec), conv.spec);
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

TEST(CpuConvAll, SteadyStepsAllocateNothing) {
  if (!malloc_is_counted()) GTEST_SKIP() << "this build has a malloc of its own";
  int checked = 0;
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::PrintToString(c));
    if (expect_no_allocation(c)) ++checked;
  }
  if (checked == 0) GTEST_SKIP() << "on this machine oneDNN has only its general matrix product";
}

// A net trained with empty rows must see nothing of them.
TEST(CpuConvRows, EmptyRowsLeaveTheGradientAlone) {
  Case c{"rows", 8, 32, 10, 10, 32, 3, 3, 1, 1, 1, 1, 1, true, true};
  const Conv conv(c);
  Data data(c);
  const std::size_t half_in = data.input.size() / 2, half_out = data.diff.size() / 2;
  std::fill(data.input.begin() + static_cast<std::ptrdiff_t>(half_in), data.input.end(), 0.0f);
  std::fill(data.diff.begin() + static_cast<std::ptrdiff_t>(half_out), data.diff.end(), 0.0f);
  LanePool pool(1);
  KernelRun whole(cpu::make_conv2d(conv.spec), conv.spec);
  load(whole, c, data);
  whole.prepare(pool);
  whole.forward(pool);
  whole.backward(pool);

  Case half = c;
  half.rows = 4;
  const Conv conv_half(half);
  Data data_half(half);
  data_half.input.assign(data.input.begin(), data.input.begin() + static_cast<std::ptrdiff_t>(half_in));
  data_half.diff.assign(data.diff.begin(), data.diff.begin() + static_cast<std::ptrdiff_t>(half_out));
  KernelRun part(cpu::make_conv2d(conv_half.spec), conv_half.spec);
  load(part, half, data_half);
  part.prepare(pool);
  part.forward(pool);
  part.backward(pool);
  const auto want = part.gradient(0, data.weights.size());
  Sums reference(want.size());
  for (std::size_t i = 0; i < want.size(); ++i) reference.add(static_cast<std::int64_t>(i), want[i]);
  double norm = 0;
  for (const double x : reference.value) norm = std::max(norm, std::abs(x));
  std::fill(reference.magnitude.begin(), reference.magnitude.end(), norm * 10);
  expect_close(whole.gradient(0, data.weights.size()), reference.value, reference.magnitude, 800, "gradient");
}

}  // namespace
}  // namespace lockstep::test
