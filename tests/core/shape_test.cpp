#include "core/shape.h"

#include <gtest/gtest.h>
#include <limits>
#include <stdexcept>

namespace lockstep {
namespace {

TEST(Shape, CountsElements) {
  EXPECT_EQ(Shape({32, 26, 26}).elements(), 32 * 26 * 26);
  EXPECT_EQ(Shape().elements(), 1);
  EXPECT_EQ(Shape({4, 0, 3}).elements(), 0);
}

TEST(Shape, AShapeThatLiesDoesNotWrapAround) {
  const std::int64_t large = std::int64_t{1} << 40;
  EXPECT_EQ(Shape({large, large}).elements(), std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(Shape({large, large, 0}).elements(), 0);
}

TEST(Shape, PrintsItself) {
  EXPECT_EQ(Shape({32, 26, 26}).text(), "32x26x26");
  EXPECT_EQ(Shape({10}).text(), "10");
  EXPECT_EQ(Shape().text(), "scalar");
}

TEST(Shape, ComparesExtentsAndRank) {
  EXPECT_EQ(Shape({2, 3}), Shape({2, 3}));
  EXPECT_NE(Shape({2, 3}), Shape({3, 2}));
  EXPECT_NE(Shape({6}), Shape({2, 3}));
  EXPECT_THROW(Shape({2, 3})[2], std::out_of_range);
}

TEST(DType, HasSizeAndNameOfSafetensors) {
  EXPECT_EQ(size_of(DType::f32), 4u);
  EXPECT_EQ(size_of(DType::f64), 8u);
  EXPECT_EQ(size_of(DType::i32), 4u);
  EXPECT_EQ(size_of(DType::i64), 8u);
  EXPECT_EQ(size_of(DType::u8), 1u);
  EXPECT_STREQ(name_of(DType::f32), "F32");
  EXPECT_STREQ(name_of(DType::f64), "F64");
  EXPECT_STREQ(name_of(DType::i32), "I32");
  EXPECT_STREQ(name_of(DType::i64), "I64");
  EXPECT_STREQ(name_of(DType::u8), "U8");
}

}  // namespace
}  // namespace lockstep
