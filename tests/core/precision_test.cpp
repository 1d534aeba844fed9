#include "core/numerics/precision.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <limits>

#include "core/numerics/loss_scale.h"

namespace lockstep {
namespace {

/// The nearest of all finite values of a 16-bit format and infinity, ties to the even pattern, by search: the
/// definition. `top` is the largest finite pattern; infinity stands where the next number would.
template <class ToFloat>
std::uint16_t nearest(float x, std::uint16_t top, ToFloat to_float) {
  const bool negative = std::signbit(x);
  const double magnitude = std::abs(static_cast<double>(x));
  const double last = to_float(top);
  const auto value = [&](int pattern) {
    if (pattern <= top) return static_cast<double>(to_float(static_cast<std::uint16_t>(pattern)));
    return last + (last - static_cast<double>(to_float(static_cast<std::uint16_t>(top - 1))));
  };
  int low = 0, high = top + 1;
  if (magnitude >= value(high)) return static_cast<std::uint16_t>((negative ? 0x8000 : 0) | high);
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (value(middle) <= magnitude ? low : high) = middle;
  }
  const double below = magnitude - value(low), above = value(high) - magnitude;
  const int pattern = below < above || (below == above && low % 2 == 0) ? low : high;
  return static_cast<std::uint16_t>((negative ? 0x8000 : 0) | pattern);
}

/// Floats that reach every exponent, ties, neighbours of ties, and denormals.
template <class Body>
void for_many_floats(Body body) {
  for (std::uint32_t upper = 0; upper < 0x10000u; upper += 3)
    for (const std::uint32_t lower :
         {0u, 1u, 0x0fffu, 0x1000u, 0x1001u, 0x3000u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const float x = std::bit_cast<float>(upper << 16 | lower);
      if (std::isfinite(x)) body(x);
    }
}

TEST(Precision, Bf16RoundsToTheNearestEven) {
  for_many_floats([](float x) { ASSERT_EQ(float_to_bf16(x), nearest(x, 0x7f7f, bf16_to_float)) << x; });
}

TEST(Precision, Fp16RoundsToTheNearestEven) {
  for_many_floats([](float x) { ASSERT_EQ(float_to_fp16(x), nearest(x, 0x7bff, fp16_to_float)) << x; });
  // Every tie and its neighbours in the range of binary16, denormals included.
  for (std::uint32_t pattern = 0; pattern < 0x7c00u; ++pattern) {
    const double low = fp16_to_float(static_cast<std::uint16_t>(pattern));
    const double high = pattern == 0x7bffu ? 65536.0 : fp16_to_float(static_cast<std::uint16_t>(pattern + 1));
    const auto tie = static_cast<float>((low + high) / 2);
    for (const float x : {tie, std::nextafter(tie, 0.0f), std::nextafter(tie, 1e9f)})
      for (const float y : {x, -x}) ASSERT_EQ(float_to_fp16(y), nearest(y, 0x7bff, fp16_to_float)) << y;
  }
}

TEST(Precision, EveryPatternReturnsToItself) {
  for (std::uint32_t pattern = 0; pattern < 0x10000u; ++pattern) {
    const auto p = static_cast<std::uint16_t>(pattern);
    const float half = fp16_to_float(p), brain = bf16_to_float(p);
    if (std::isnan(half)) {
      EXPECT_TRUE((pattern & 0x7fffu) > 0x7c00u);
      EXPECT_TRUE(std::isnan(fp16_to_float(float_to_fp16(half))));
    } else {
      ASSERT_EQ(float_to_fp16(half), p);
    }
    if (std::isnan(brain)) {
      EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(brain))));
    } else {
      ASSERT_EQ(float_to_bf16(brain), p);
    }
  }
}

TEST(Precision, KnownValues) {
  EXPECT_EQ(float_to_fp16(1.0f), 0x3c00);
  EXPECT_EQ(float_to_fp16(-2.0f), 0xc000);
  EXPECT_EQ(float_to_fp16(65504.0f), 0x7bff);
  EXPECT_EQ(float_to_fp16(65519.99f), 0x7bff);
  EXPECT_EQ(float_to_fp16(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_fp16(0x1p-24f), 0x0001);
  EXPECT_EQ(float_to_fp16(0x1p-25f), 0x0000);
  EXPECT_EQ(float_to_fp16(-0.0f), 0x8000);
  EXPECT_EQ(float_to_bf16(1.0f), 0x3f80);
  EXPECT_EQ(float_to_bf16(3.4e38f), 0x7f80);  // rounds up to infinity
  EXPECT_EQ(float_to_bf16(-0.0f), 0x8000);
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(float_to_fp16(-infinity), 0xfc00);
  EXPECT_EQ(float_to_bf16(infinity), 0x7f80);
}

TEST(LossScale, GrowsAfterManyGoodStepsAndShrinksAtOnce) {
  LossScaleOptions options;
  options.interval = 3;
  LossScale state{1024.0f, 0, 0};
  state = next_loss_scale(state, false, options);
  state = next_loss_scale(state, false, options);
  EXPECT_EQ(state, (LossScale{1024.0f, 2, 0}));
  state = next_loss_scale(state, false, options);
  EXPECT_EQ(state, (LossScale{2048.0f, 0, 0}));
  state = next_loss_scale(state, false, options);
  state = next_loss_scale(state, true, options);
  EXPECT_EQ(state, (LossScale{1024.0f, 0, 1}));  // the good steps count from the last change
  state = next_loss_scale(state, true, options);
  EXPECT_EQ(state, (LossScale{512.0f, 0, 2}));
}

TEST(LossScale, StaysWithinItsBounds) {
  const LossScaleOptions options;
  LossScale state{2.0f, 0, 0};
  for (int i = 0; i < 5; ++i) state = next_loss_scale(state, true, options);
  EXPECT_EQ(state.scale, 1.0f);
  EXPECT_EQ(state.skipped, 5);
  for (int i = 0; i < 40 * options.interval; ++i) state = next_loss_scale(state, false, options);
  EXPECT_EQ(state.scale, options.largest);
}

/// The default state needs fewer steps than the scale has halvings to reach any representable gradient.
TEST(LossScale, RecoversFromAnOverflowInOneStepPerPowerOfTwo) {
  const LossScaleOptions options;
  LossScale state;
  int steps = 0;
  while (state.scale * 40.0f > 65504.0f) {  // gradients of 40 overflow float16 at first
    state = next_loss_scale(state, true, options);
    ++steps;
  }
  EXPECT_EQ(steps, 6);
  EXPECT_EQ(state.scale, 1024.0f);
}

}  // namespace
}  // namespace lockstep
