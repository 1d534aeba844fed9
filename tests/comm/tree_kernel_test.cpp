#include "comm/sync/tree_kernel.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/numerics/philox.h"

namespace lockstep {
namespace {

float value(std::uint32_t operand, std::int64_t i) {
  const PhiloxBlock b = random_block({operand, 7}, static_cast<std::uint64_t>(i), 0);
  return (uniform01(b.v[0]) - 0.5f) * std::ldexp(1.0f, static_cast<int>(b.v[1] % 30));
}

/// Operands over leaves of a tree, some of them sums of several leaves by name only: parts of any size.
class SumProgramTest : public testing::TestWithParam<std::int64_t> {};

TEST_P(SumProgramTest, SameBitsAsTheRecursiveSum) {
  const std::int64_t leaves = GetParam();
  std::vector<Node> parts;
  for (std::int64_t i = 0; i < leaves; ++i) parts.push_back({i, i + 1});
  const SumProgram program(completion_program(leaves, parts));
  ASSERT_EQ(program.operands(), static_cast<std::size_t>(leaves));
  for (const std::int64_t n : {1, 15, 16, 1023, 1024, 1025, 4096, 9001}) {
    constexpr std::int64_t offset = 5;
    std::vector<std::vector<float>> data(static_cast<std::size_t>(leaves));
    std::vector<const float*> operands;
    for (std::size_t o = 0; o < data.size(); ++o) {
      for (std::int64_t i = 0; i < n + offset; ++i)
        data[o].push_back(value(static_cast<std::uint32_t>(o), i));
      operands.push_back(data[o].data());
    }
    std::vector<float> expected;
    for (std::int64_t i = offset; i < n + offset; ++i) {
      std::vector<float> column;
      for (const auto& d : data) column.push_back(d[static_cast<std::size_t>(i)]);
      expected.push_back(tree_sum(column.data(), leaves, [](float a, float b) { return a + b; }));
    }
    std::vector<float> out(static_cast<std::size_t>(n));
    std::vector<double> marks(static_cast<std::size_t>((n + block_elements - 1) / block_elements));
    program.run(operands, offset, n, out.data(), marks.data());
    for (std::size_t i = 0; i < out.size(); ++i) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(out[i]), std::bit_cast<std::uint32_t>(expected[i])) << i;
    }
    // In place, in any operand's memory.
    const std::size_t into = static_cast<std::size_t>(n) % data.size();
    program.run(operands, offset, n, data[into].data() + offset, nullptr);
    for (std::size_t i = 0; i < out.size(); ++i) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(data[into][i + offset]),
                std::bit_cast<std::uint32_t>(expected[i]))
          << i;
    }
    for (const double mark : marks) ASSERT_EQ(mark, 0.0);
  }
}

INSTANTIATE_TEST_SUITE_P(Leaves, SumProgramTest, testing::Values(1, 2, 3, 4, 5, 7, 8, 12, 33));

TEST(SumProgram, ProgramsThatLeaveNoSingleSumAreRefused) {
  EXPECT_THROW(SumProgram({{0}, {1}}), InternalError);
  EXPECT_THROW(SumProgram({{0}, {-1}}), InternalError);
  EXPECT_THROW(SumProgram(std::vector<TreeOp>{}), InternalError);
}

TEST(SumProgram, NotANumberAndInfinityGoThrough) {
  const std::vector<float> a = {INFINITY, NAN, 1.0f};
  const std::vector<float> b = {-INFINITY, 1.0f, INFINITY};
  std::vector<float> out(3);
  double marks = 0;
  const float* operands[] = {a.data(), b.data()};
  SumProgram(completion_program(2, {{0, 1}, {1, 2}})).run(operands, 0, 3, out.data(), &marks);
  EXPECT_TRUE(std::isnan(out[0]) && std::isnan(out[1]) && std::isinf(out[2]));
  EXPECT_TRUE(std::isnan(marks));
}

TEST(SumProgram, MarksTheBlockThatIsNotFiniteAndNoOther) {
  constexpr std::int64_t n = 3 * block_elements + 5;
  const SumProgram program(completion_program(2, {{0, 1}, {1, 2}}));
  for (const float bad : {INFINITY, -INFINITY, NAN}) {
    for (const std::int64_t at : {std::int64_t{0}, block_elements - 1, block_elements, n - 1}) {
      std::vector<float> a(static_cast<std::size_t>(n), 1e38f), out(a.size());
      const std::vector<float> b(a.size(), 1.0f);
      a[static_cast<std::size_t>(at)] = bad;
      std::vector<double> marks(4, -1.0);
      const float* operands[] = {a.data(), b.data()};
      program.run(operands, 0, n, out.data(), marks.data());
      for (std::int64_t block = 0; block < 4; ++block)
        EXPECT_EQ(std::isnan(marks[static_cast<std::size_t>(block)]), block == at / block_elements)
            << bad << " at " << at << ", block " << block;
    }
  }
}

}  // namespace
}  // namespace lockstep
