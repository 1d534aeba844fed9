#include "comm/sync/tree_completion.h"

#include <cmath>
#include <cstring>
#include <gtest/gtest.h>

#include "comm/sync/tree_kernel.h"
#include "core/error.h"
#include "core/numerics/philox.h"

namespace lockstep {
namespace {

std::vector<float> numbers(std::int64_t count, std::uint32_t seed) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < count; ++i) {
    const PhiloxBlock b = philox4x32({seed, 1}, static_cast<std::uint32_t>(i), 0, 0, 0);
    values.push_back((uniform01(b.v[0]) - 0.5f) * std::ldexp(1.0f, static_cast<int>(b.v[1] % 30)));
  }
  return values;
}

template <int Depth>
float complete(const CompletionOperands& from, const MergeProgram& program, std::int64_t i) {
  return complete_element<Depth, float>(from, program.merges.data(),
                                        static_cast<std::int32_t>(program.merges.size()), i,
                                        [](const float* at) { return *at; });
}

TEST(TreeCompletion, GivesTheBitsOfTheHostKernelForEveryPlaceOfTheOwnParts) {
  constexpr std::int64_t n = 37;
  for (std::int64_t slices = 1; slices <= 33; ++slices) {
    for (int ranks = 1; ranks <= std::min<std::int64_t>(slices, 9); ++ranks) {
      std::vector<Node> parts;
      std::vector<std::int32_t> first = {0};
      for (int r = 0; r < ranks; ++r) {
        for (const Node& node : maximal_subtrees(slices, {slices * r / ranks, slices * (r + 1) / ranks}))
          parts.push_back(node);
        first.push_back(static_cast<std::int32_t>(parts.size()));
      }
      const std::vector<TreeOp> tree = completion_program(slices, parts);
      const MergeProgram program = merge_program(tree);
      const std::vector<float> values = numbers(static_cast<std::int64_t>(parts.size()) * n, 3);
      std::vector<const float*> operands;
      for (std::size_t p = 0; p < parts.size(); ++p) operands.push_back(values.data() + p * n);
      std::vector<float> expected(n);
      SumProgram(tree).run(operands, 0, n, expected.data(), nullptr);
      for (int r = 0; r < ranks; ++r) {
        // The own parts are taken out of their row and kept somewhere else, with gaps.
        const std::int32_t begin = first[static_cast<std::size_t>(r)],
                           end = first[static_cast<std::size_t>(r) + 1];
        constexpr std::int64_t own_stride = n + 5;
        std::vector<float> own(static_cast<std::size_t>((end - begin) * own_stride)), received;
        for (std::int32_t p = 0; p < static_cast<std::int32_t>(parts.size()); ++p) {
          const float* at = values.data() + p * n;
          if (p >= begin && p < end) {
            std::copy_n(at, n, own.begin() + (p - begin) * own_stride);
          } else {
            received.insert(received.end(), at, at + n);
          }
        }
        const CompletionOperands from{own.data(), own_stride, begin, end - begin, received.data(), n};
        for (std::int64_t i = 0; i < n; ++i) {
          const float wide = complete<40>(from, program, i);
          ASSERT_EQ(std::memcmp(&wide, &expected[static_cast<std::size_t>(i)], 4), 0)
              << slices << " slices, " << ranks << " ranks, element " << i;
          if (program.depth <= 8) {
            const float narrow = complete<8>(from, program, i);
            ASSERT_EQ(std::memcmp(&narrow, &wide, 4), 0);
          }
        }
      }
    }
  }
}

TEST(TreeCompletion, DepthIsWhatTheStackNeeds) {
  const auto depth = [](std::int64_t leaves) {
    std::vector<Node> parts;
    for (std::int64_t i = 0; i < leaves; ++i) parts.push_back({i, i + 1});
    return merge_program(completion_program(leaves, parts)).depth;
  };
  EXPECT_EQ(depth(1), 1);
  EXPECT_EQ(depth(2), 2);
  EXPECT_EQ(depth(8), 4);
  EXPECT_EQ(depth(1024), 11);
}

TEST(TreeCompletion, RefusesWhatIsNoProgram) {
  EXPECT_THROW(merge_program({{0}, {1}}), InternalError);
  EXPECT_THROW(merge_program({{1}, {0}, {-1}}), InternalError);
  EXPECT_THROW(merge_program({{0}, {-1}}), InternalError);
  EXPECT_THROW(merge_program({}), InternalError);
  EXPECT_THROW(chain_program(0), InternalError);
}

}  // namespace
}  // namespace lockstep
