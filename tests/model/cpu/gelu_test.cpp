// GELU: the CPU's kernel and the function that a GPU runs, against float64.
#include "model/ops/activation/gelu.h"

#include <bit>

#include "model/cpu/op_harness.h"
#include "model/cuda/kernels/work_elementwise.h"
#include "model/ops/activation/gelu_function.h"

namespace lockstep::op_test {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();
/// Numbers below the normal range are rounded to multiples of 2^-149: in the forward pass twice, then times
/// x; in the slope three times, then times x 2u'. Beyond |x| = 11 nothing is left of them; there 2u' is 27.5.
constexpr double forward_floor = 11 * 1.0 / 0x1p149 + 1.0 / 0x1p149;
constexpr double slope_floor = 11 * 27.5 * 1.5 / 0x1p149 + 1.0 / 0x1p149;

struct Exact {
  double twice_u, share, slope, y;
};
Exact exact(double x) {
  const double scale = 2 * std::sqrt(2 / std::acos(-1.0));
  Exact e{};
  e.twice_u = scale * (x + 0.044715 * x * x * x);
  e.share = 1 / (1 + std::exp(-e.twice_u));
  e.y = x * e.share;
  const double bend = e.share / (1 + std::exp(e.twice_u));
  e.slope = bend == 0 ? e.share : e.share + x * bend * scale * (1 + 3 * 0.044715 * x * x);
  return e;
}

// 2u comes from constants that are rounded and four operations on terms of one sign: 5 u (unit) relatively.
// e^(-|2u|) errs by as much times |2u|, and by its own ulp, 2 u. d ln(y) / d ln(e) is 1 - share; the sum, the
// quotient and up to two products add 4 u. One per cent is for products of errors.
double error_of_exponential(const Exact& e) {
  return 2 + 5 * std::abs(e.twice_u);
}
double forward_bound(double x) {
  const Exact e = exact(x);
  const double relative = 4 + error_of_exponential(e) * (1 - e.share);
  return 1.01 * unit * relative * std::abs(e.y) + forward_floor;
}
// The slope is a sum of the share and of a product of the exponential, two quotients of 2 u each, four
// products and a factor that errs by 4 u; the sum rounds once more.
double slope_bound(double x) {
  const Exact e = exact(x);
  const double first = (3 + error_of_exponential(e) * (1 - e.share)) * e.share;
  const double second = (12 + error_of_exponential(e)) * std::abs(e.slope - e.share);
  return 1.01 * unit * (first + second + std::abs(e.slope)) + slope_floor;
}

/// Every 1009th float32 of either sign, from the smallest denormals to the largest number.
std::vector<float> all_magnitudes() {
  std::vector<float> x;
  for (std::uint32_t bits = 0; bits < 0x7f800000u; bits += 1009) {
    x.push_back(std::bit_cast<float>(bits));
    x.push_back(-x.back());
  }
  // Densely where it bends.
  for (float v = -13.0f; v < 13.0f; v += 1e-4f) x.push_back(v);
  return x;
}

CpuOp gelu_of_row(const std::vector<float>& x) {
  CpuOp op(cpu::make_gelu, {GeluAttrs{}, {Shape{static_cast<std::int64_t>(x.size())}}, 1, 1, 1});
  op.set_input(0, x);
  op.forward();
  op.set_diff_output(std::vector<float>(x.size(), 1.0f));
  op.backward();
  return op;
}

TEST(CpuGelu, IsWithinItsBoundAtEveryMagnitude) {
  const std::vector<float> x = all_magnitudes();
  CpuOp op = gelu_of_row(x);
  const auto y = op.output(), slope = op.diff_input(0);
  double worst = 0, worst_slope = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto v = static_cast<double>(x[i]);
    const Exact e = exact(v);
    ASSERT_TRUE(std::isfinite(y[i]) && std::isfinite(slope[i])) << x[i];
    const double error = std::abs(static_cast<double>(y[i]) - e.y);
    const double slope_error = std::abs(static_cast<double>(slope[i]) - e.slope);
    ASSERT_LE(error, forward_bound(v)) << x[i] << " gives " << y[i];
    ASSERT_LE(slope_error, slope_bound(v)) << x[i] << " has slope " << slope[i];
    worst = std::max(worst, error / forward_bound(v));
    worst_slope = std::max(worst_slope, slope_error / slope_bound(v));
  }
  // A bound that nothing comes near would hold nothing.
  EXPECT_GT(worst, 0.2);
  EXPECT_GT(worst_slope, 0.1);
}

// The kernel runs the clone for this machine's instruction set, this loop that of any machine, and the last
// one is what a GPU computes.
TEST(CpuGelu, EveryVectorWidthAndTheGpusFunctionGiveTheSameBits) {
  std::vector<float> x = all_magnitudes();
  x.insert(x.end(), {infinity, nan, -nan});
  const auto n = static_cast<std::int64_t>(x.size());
  CpuOp op = gelu_of_row(x);
  std::vector<float> one(x.size()), slope(x.size()), device(x.size()), device_slope(x.size());
  const std::vector<float> ones(x.size(), 1.0f);
  for (std::int64_t i = 0; i < n; ++i) {
    one[at(i)] = gelu_of(x[at(i)]);
    slope[at(i)] = gelu_slope(x[at(i)]);
    cuda::Gelu<float>{x.data(), device.data()}(i);
    cuda::GeluSlope<float>{x.data(), ones.data(), device_slope.data()}(i);
  }
  const auto finite = at(n - 2);  // the bits of a NaN are nobody's promise
  const auto same = [&](std::vector<float> a, std::vector<float> b) {
    a.resize(finite);
    b.resize(finite);
    return same_bits(a, b);
  };
  EXPECT_TRUE(same(op.output(), one));
  EXPECT_TRUE(same(op.diff_input(0), slope));
  EXPECT_TRUE(same(device, one));
  EXPECT_TRUE(same(device_slope, slope));
}

TEST(CpuGelu, Ends) {
  const float large = std::numeric_limits<float>::max(), tiny = std::numeric_limits<float>::denorm_min();
  CpuOp op =
      gelu_of_row({0.0f, -0.0f, infinity, -infinity, nan, large, -large, 1e20f, -1e20f, 2 * tiny, -20.0f});
  const auto y = op.output(), slope = op.diff_input(0);
  const auto bits = [](float v) { return std::bit_cast<std::uint32_t>(v); };
  EXPECT_EQ(bits(y[0]), bits(0.0f));
  EXPECT_EQ(bits(y[1]), bits(-0.0f));
  EXPECT_EQ(y[2], infinity);
  EXPECT_TRUE(std::isnan(y[3])) << "0 times infinity, as the formula";
  EXPECT_TRUE(std::isnan(y[4]));
  EXPECT_EQ(y[5], large);
  EXPECT_EQ(bits(y[6]), bits(-0.0f));
  EXPECT_EQ(y[7], 1e20f);
  EXPECT_EQ(bits(y[8]), bits(-0.0f));
  EXPECT_EQ(y[9], tiny);
  EXPECT_EQ(bits(y[10]), bits(-0.0f));
  for (const std::size_t i : {0u, 1u, 9u}) EXPECT_EQ(slope[i], 0.5f);
  for (const std::size_t i : {2u, 5u, 7u}) EXPECT_EQ(slope[i], 1.0f);
  for (const std::size_t i : {3u, 6u, 8u, 10u}) EXPECT_EQ(slope[i], 0.0f);
  EXPECT_TRUE(std::isnan(slope[4]));
}

TEST(CpuGelu, EqualsTheReferenceInEveryLayout) {
  struct Case {
    Shape shape;
    std::int64_t block, rows;
  };
  for (const Case& c : std::vector<Case>{{Shape{7}, 1, 5},
                                         {Shape{1}, 1, 1},
                                         {Shape{3, 5, 7}, 1, 3},
                                         {Shape{16, 3, 3}, 8, 3},
                                         {Shape{32, 5, 4}, 16, 2},
                                         {Shape{6, 5, 3}, 0, 4},
                                         {Shape{48, 20, 21}, 16, 9},
                                         {Shape{48, 20, 21}, 0, 9},
                                         {Shape{30000}, 1, 20}}) {
    // Draws lie within (-6, 6), where both are at most 6; the bounds above are largest at the ends.
    const double widest = std::max(forward_bound(6), forward_bound(-6));
    const double steepest = std::max({slope_bound(6), slope_bound(1.5), slope_bound(-1.5)}) + 2 * unit;
    check_against_reference(
        cpu::make_gelu, {GeluAttrs{}, {c.shape}, c.block, c.rows, c.rows},
        [=](std::size_t, double) { return widest; }, [=](std::size_t, double) { return 6 * steepest; },
        c.shape.text() + " block " + std::to_string(c.block));
  }
}

TEST(CpuGelu, ForInferenceMayWorkInPlaceAndKeepsNothing) {
  CpuOp op(cpu::make_gelu, {GeluAttrs{}, {Shape{37}}, 1, 3, 3, false});
  const auto x = random_floats(op.input_elements(0), 1);
  op.set_input(0, x);
  op.forward();
  EXPECT_FALSE(op.kernel().needs().needs_input_in_backward);
  EXPECT_TRUE(op.kernel().backward_phases().empty());
  std::vector<float> buffer = x;
  cpu::TaskContext ctx;
  ctx.arena = reinterpret_cast<std::byte*>(buffer.data());
  cpu::Binding in_place;
  in_place.inputs = {0};
  in_place.output = 0;
  op.kernel().forward(0, 0, in_place, ctx);
  EXPECT_TRUE(same_bits(buffer, op.output()));
}

TEST(CpuGelu, GradientsOfEmptyRowsAreZeros) {
  CpuOp op(cpu::make_gelu, {GeluAttrs{}, {Shape{8, 2, 3}}, 8, 3, 1});
  op.set_input(0, random_floats(op.input_elements(0), 3));
  auto diff = random_floats(op.output_elements(), 4);
  std::fill(diff.begin() + 48, diff.end(), 0.0f);
  op.set_diff_output(diff);
  op.forward();
  op.backward();
  for (std::size_t i = 0; i < 3 * 48; ++i) ASSERT_EQ(op.diff_input(0)[i] == 0, i >= 48);
}

}  // namespace
}  // namespace lockstep::op_test
