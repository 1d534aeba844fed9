// The CPU kernels of max, average and global average pooling against their float64 references.
#include "model/cpu/op_harness.h"

namespace lockstep::op_test {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
const Bound exact = [](std::size_t, double) { return 0.0; };

struct Case {
  Shape shape;
  std::int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
  std::int64_t rows;
};
const std::vector<Case> cases = {
    {Shape{16, 6, 6}, 2, 2, 2, 2, 0, 0, 3},      // the usual one
    {Shape{16, 7, 5}, 2, 2, 2, 2, 0, 0, 2},      // the last line and column are in no window
    {Shape{32, 9, 8}, 3, 3, 2, 2, 1, 1, 2},      // overlapping, padded
    {Shape{48, 5, 40}, 3, 2, 1, 1, 2, 1, 2},     // stride 1, wide
    {Shape{16, 4, 37}, 2, 3, 3, 4, 1, 2, 2},     // stride above the window
    {Shape{32, 7, 7}, 7, 7, 7, 7, 0, 0, 3},      // one window
    {Shape{16, 20, 20}, 16, 17, 2, 3, 8, 9, 1},  // 272 elements: an index of more than a byte
    {Shape{16, 1, 1}, 1, 1, 1, 1, 0, 0, 2},      // one pixel
    {Shape{16, 1, 3}, 3, 3, 1, 2, 2, 1, 2},      // windows mostly in the padding
    {Shape{64, 30, 31}, 2, 2, 2, 2, 0, 0, 9},    // several tasks
    {Shape{64, 30, 31}, 3, 3, 2, 2, 1, 1, 9}};
const std::vector<std::int64_t> blocks = {1, 2, 8, 16, 0};

template <class Attrs>
Attrs attrs_of(const Case& c) {
  return {c.kernel_h, c.kernel_w, c.stride_h, c.stride_w, c.pad_h, c.pad_w};
}
std::string text(const Case& c, std::int64_t block) {
  return c.shape.text() + " window " + std::to_string(c.kernel_h) + "x" + std::to_string(c.kernel_w) +
         " block " + std::to_string(block);
}
/// How many windows one element can be in.
double overlap(const Case& c) {
  const std::int64_t lines = (c.kernel_h + c.stride_h - 1) / c.stride_h;
  const std::int64_t columns = (c.kernel_w + c.stride_w - 1) / c.stride_w;
  return static_cast<double>(lines * columns);
}
// Of normal numbers as the harness draws them: no sample here lies above this.
constexpr double largest_normal = 6;

TEST(CpuPool, MaxEqualsTheReferenceInEveryLayout) {
  for (const Case& c : cases) {
    // The output is one of the inputs; a gradient is a float32 sum of up to `n` terms, its error below n^2
    // terms of u.
    const double n = overlap(c);
    const Bound sums = [n](std::size_t, double) { return n > 1 ? unit * n * n * largest_normal : 0.0; };
    for (const std::int64_t block : blocks) {
      check_against_reference(cpu::make_max_pool,
                              {attrs_of<MaxPoolAttrs>(c), {c.shape}, block, c.rows, c.rows}, exact, sums,
                              text(c, block));
      check_against_reference(cpu::make_max_pool,
                              {attrs_of<MaxPoolAttrs>(c), {c.shape}, block, c.rows, c.rows, false}, exact,
                              sums, text(c, block) + " inference");
    }
  }
}

TEST(CpuPool, ChannelsThatFitNoVector) {
  const Case c{Shape{5, 9, 8}, 3, 3, 2, 2, 1, 1, 3};
  for (const std::int64_t block : {1, 5}) {
    check_against_reference(
        cpu::make_max_pool, {attrs_of<MaxPoolAttrs>(c), {c.shape}, block, 3, 3}, exact,
        [](std::size_t, double) { return unit * 16 * largest_normal; }, text(c, block));
    check_against_reference(
        cpu::make_avg_pool, {attrs_of<AvgPoolAttrs>(c), {c.shape}, block, 3, 3},
        [](std::size_t, double) { return unit * 7 * largest_normal; },
        [](std::size_t, double) { return unit * 20 * largest_normal; }, text(c, block));
  }
}

TEST(CpuPool, AverageIsWithinItsRoundingBound) {
  for (const Case& c : cases) {
    // kernel_w - 1 additions in a line, kernel_h - 1 of lines, one division; relative to the mean of
    // magnitudes.
    const double terms = static_cast<double>(c.kernel_h + c.kernel_w);
    const Bound forward = [terms](std::size_t, double) { return unit * terms * largest_normal; };
    // A division per term, and the sum of `n` terms.
    const double n = overlap(c);
    const Bound backward = [n](std::size_t, double) { return unit * n * (n + 1) * largest_normal; };
    for (const std::int64_t block : blocks) {
      check_against_reference(cpu::make_avg_pool,
                              {attrs_of<AvgPoolAttrs>(c), {c.shape}, block, c.rows, c.rows}, forward,
                              backward, text(c, block));
    }
  }
}

TEST(CpuPool, GlobalAverageIsWithinItsRoundingBound) {
  for (const Case& c : cases) {
    for (const std::int64_t block : blocks) {
      // Four terms in float32, the rest in float64, the result rounded: below 4 u of the mean of magnitudes.
      check_against_reference(
          cpu::make_global_avg_pool, {GlobalAvgPoolAttrs{}, {c.shape}, block, c.rows, c.rows},
          [](std::size_t, double) { return unit * 4 * largest_normal; },
          [](std::size_t, double expected) { return unit * std::abs(expected) * 1.001; }, text(c, block));
    }
  }
}

TEST(CpuPool, TheFirstMaximumWinsAndPaddingNever) {
  for (const std::int64_t block : {1, 8, 16}) {
    CpuOp op(cpu::make_max_pool, {MaxPoolAttrs{2, 2, 2, 2, 1, 1}, {Shape{16, 3, 3}}, block, 1, 1});
    // Negative everywhere: a padding that counted as 0 would win. All equal: the first inside wins.
    op.set_input(0, std::vector<float>(at(op.input_elements(0)), -2.5f));
    op.set_diff_output(std::vector<float>(at(op.output_elements()), 1.0f));
    op.forward();
    for (const float v : op.output()) ASSERT_EQ(v, -2.5f);
    op.backward();
    const auto dx = op.diff_input(0);
    const std::vector<float> expected = {1, 1, 0, 1, 1, 0, 0, 0, 0};
    for (std::size_t i = 0; i < dx.size(); ++i) ASSERT_EQ(dx[i], expected[i % 9]) << i;
  }
  // Also where every element is minus infinity, or the two zeros stand together.
  CpuOp op(cpu::make_max_pool, {MaxPoolAttrs{1, 3, 1, 3, 0, 0}, {Shape{1, 1, 6}}, 1, 1, 1});
  const float low = -std::numeric_limits<float>::infinity();
  op.set_input(0, {low, low, low, -0.0f, 0.0f, -1});
  op.set_diff_output({7, 9});
  op.forward();
  op.backward();
  EXPECT_EQ(op.output()[0], low);
  EXPECT_EQ(op.diff_input(0), (std::vector<float>{7, 0, 0, 9, 0, 0}));
}

TEST(CpuPool, NanMakesItsWindowsNanAndNoOther) {
  for (const std::int64_t block : {1, 8, 16, 0}) {
    const Shape shape{32, 4, 8};
    for (const std::int64_t place : {0, 1, 8, 9}) {  // each tap of the first window of channel 3
      for (const bool max : {true, false}) {
        const OpAttrs attrs =
            max ? OpAttrs{MaxPoolAttrs{2, 2, 2, 2, 0, 0}} : OpAttrs{AvgPoolAttrs{2, 2, 2, 2, 0, 0}};
        CpuOp op(max ? cpu::make_max_pool : cpu::make_avg_pool, {attrs, {shape}, block, 1, 1});
        auto x = random_floats(op.input_elements(0), 5);
        x[at(3 * 32 + place)] = nan;
        op.set_input(0, x);
        op.set_diff_output(random_floats(op.output_elements(), 6));
        op.forward();
        op.backward();
        const auto y = op.output();
        for (std::size_t i = 0; i < y.size(); ++i) ASSERT_EQ(std::isnan(y[i]), i == 3 * 8) << i;
        for (const float v : op.diff_input(0)) ASSERT_TRUE(std::isfinite(v));
      }
      CpuOp op(cpu::make_global_avg_pool, {GlobalAvgPoolAttrs{}, {shape}, block, 1, 1});
      auto x = random_floats(op.input_elements(0), 5);
      x[at(3 * 32 + place)] = nan;
      op.set_input(0, x);
      op.forward();
      const auto y = op.output();
      for (std::size_t i = 0; i < y.size(); ++i) ASSERT_EQ(std::isnan(y[i]), i == 3);
    }
  }
}

TEST(CpuPool, TheWinnerTakesOneByteWhereThatIsEnough) {
  const CpuOp small(cpu::make_max_pool, {MaxPoolAttrs{15, 17, 1, 1, 0, 0}, {Shape{16, 20, 20}}, 16, 2, 2});
  EXPECT_EQ(small.kernel().needs().saved, at(2 * 16 * 6 * 4));
  const CpuOp large(cpu::make_max_pool, {MaxPoolAttrs{16, 16, 1, 1, 0, 0}, {Shape{16, 20, 20}}, 16, 2, 2});
  EXPECT_EQ(large.kernel().needs().saved, at(2 * 16 * 5 * 5 * 4));
  const CpuOp inference(cpu::make_max_pool,
                        {MaxPoolAttrs{2, 2, 1, 1, 0, 0}, {Shape{16, 4, 4}}, 16, 2, 2, false});
  EXPECT_EQ(inference.kernel().needs().saved, 0u);
  EXPECT_TRUE(inference.kernel().backward_phases().empty());
}

}  // namespace
}  // namespace lockstep::op_test
#include "model/ops/pool/avg_pool.h"
#include "model/ops/pool/global_avg_pool.h"
