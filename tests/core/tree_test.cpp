#include "core/numerics/tree.h"

#include <bit>
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <vector>

#include "core/error.h"

namespace lockstep {
namespace {

// Written out from the definition in words, independently of the code under test: a node of n leaves splits
// at the largest power of two below n.
float direct_sum(const std::vector<float>& leaves, std::int64_t begin, std::int64_t end) {
  if (end - begin == 1) return leaves[static_cast<std::size_t>(begin)];
  std::int64_t power = 1;
  while (power * 2 < end - begin) power *= 2;
  const float left = direct_sum(leaves, begin, begin + power);
  const float right = direct_sum(leaves, begin + power, end);
  return left + right;
}

/// Values whose float sums depend strongly on the order of the additions.
std::vector<float> awkward_values(std::int64_t n, std::uint64_t seed) {
  const PhiloxKey key = random_key(seed, Purpose::synthetic, 0, 0);
  std::vector<float> values;
  for (std::int64_t i = 0; i < n; ++i) {
    const PhiloxBlock b = random_block(key, static_cast<std::uint64_t>(i), 0);
    const float magnitude = std::bit_cast<float>((b.v[0] & 0x007fffffu) | (120u + b.v[1] % 16) << 23);
    values.push_back(b.v[2] & 1 ? magnitude : -magnitude);
  }
  return values;
}

float run_program(const std::vector<TreeOp>& program, const std::vector<float>& operands) {
  std::vector<float> stack;
  for (const TreeOp& op : program) {
    if (op.operand >= 0) {
      stack.push_back(operands.at(static_cast<std::size_t>(op.operand)));
      continue;
    }
    EXPECT_GE(stack.size(), 2u);
    const float right = stack.back();
    stack.pop_back();
    stack.back() = stack.back() + right;
  }
  EXPECT_EQ(stack.size(), 1u);
  return stack.back();
}

std::uint32_t bits(float x) {
  return std::bit_cast<std::uint32_t>(x);
}

TEST(Tree, SplitsAtTheLargestPowerOfTwoBelowTheLength) {
  EXPECT_EQ(split_of({0, 2}), 1);
  EXPECT_EQ(split_of({0, 3}), 2);
  EXPECT_EQ(split_of({0, 4}), 2);
  EXPECT_EQ(split_of({0, 5}), 4);
  EXPECT_EQ(split_of({8, 12}), 10);
  EXPECT_EQ(split_of({0, 12}), 8);
}

TEST(Tree, MaximalSubtreesTileTheRangeAndAreFew) {
  for (std::int64_t leaves = 1; leaves <= 70; ++leaves) {
    const auto height = std::bit_width(static_cast<std::uint64_t>(leaves - 1));
    for (std::int64_t begin = 0; begin <= leaves; ++begin) {
      for (std::int64_t end = begin; end <= leaves; ++end) {
        const std::vector<Node> nodes = maximal_subtrees(leaves, {begin, end});
        std::int64_t at = begin;
        for (const Node& node : nodes) {
          ASSERT_EQ(node.begin, at);
          ASSERT_GT(node.end, node.begin);
          at = node.end;
        }
        ASSERT_EQ(at, end);
        ASSERT_LE(nodes.size(), std::max<std::size_t>(1, 2 * static_cast<std::size_t>(height)))
            << leaves << " leaves, [" << begin << "," << end << ")";
      }
    }
  }
}

TEST(Tree, MaximalSubtreesAreNodesAndNoTwoMakeUpALargerOne) {
  for (std::int64_t leaves = 1; leaves <= 40; ++leaves) {
    for (std::int64_t begin = 0; begin < leaves; ++begin) {
      for (std::int64_t end = begin + 1; end <= leaves; ++end) {
        const std::vector<Node> nodes = maximal_subtrees(leaves, {begin, end});
        for (const Node& node : nodes) {
          // Walk down from the root: the node must be met, and none of its ancestors may fit the range.
          Node at{0, leaves};
          while (!(at == node)) {
            ASSERT_GT(at.size(), node.size());
            ASSERT_FALSE(begin <= at.begin && at.end <= end) << "a larger subtree fits";
            const std::int64_t middle = split_of(at);
            at = node.begin < middle ? Node{at.begin, middle} : Node{middle, at.end};
          }
        }
      }
    }
  }
}

TEST(Tree, AnEmptyRangeHasNoSubtrees) {
  EXPECT_TRUE(maximal_subtrees(8, {3, 3}).empty());
  EXPECT_TRUE(maximal_subtrees(0, {0, 0}).empty());
}

TEST(Tree, SubtreeSumsOfAnyRanksCompleteToTheSameBits) {
  // For S slices on N ranks: every partition into contiguous runs [r S/N, (r+1) S/N), and, for few slices,
  // every partition there is, empty runs included by leaving them out.
  for (std::int64_t slices = 1; slices <= 40; ++slices) {
    const std::vector<float> values = awkward_values(slices, 100 + static_cast<std::uint64_t>(slices));
    const std::uint32_t expected = bits(direct_sum(values, 0, slices));
    for (std::int64_t ranks = 1; ranks <= slices; ++ranks) {
      std::vector<Node> parts;
      std::vector<float> sums;
      for (std::int64_t r = 0; r < ranks; ++r) {
        for (const Node& node : maximal_subtrees(slices, {r * slices / ranks, (r + 1) * slices / ranks})) {
          parts.push_back(node);
          sums.push_back(direct_sum(values, node.begin, node.end));
        }
      }
      ASSERT_EQ(bits(run_program(completion_program(slices, parts), sums)), expected)
          << slices << " slices on " << ranks << " ranks";
    }
  }
}

TEST(Tree, EveryPartitionIntoRunsCompletesToTheSameBits) {
  for (std::int64_t slices = 1; slices <= 12; ++slices) {
    const std::vector<float> values = awkward_values(slices, 7);
    const std::uint32_t expected = bits(direct_sum(values, 0, slices));
    // Bit i of `cuts`: a run ends after slice i.
    for (std::uint32_t cuts = 0; cuts < (1u << (slices - 1)); ++cuts) {
      std::vector<Node> parts;
      std::vector<float> sums;
      std::int64_t begin = 0;
      for (std::int64_t i = 0; i < slices; ++i) {
        if (i + 1 < slices && !(cuts >> i & 1)) continue;
        for (const Node& node : maximal_subtrees(slices, {begin, i + 1})) {
          parts.push_back(node);
          sums.push_back(direct_sum(values, node.begin, node.end));
        }
        begin = i + 1;
      }
      ASSERT_EQ(bits(run_program(completion_program(slices, parts), sums)), expected);
    }
  }
}

TEST(Tree, TheAwkwardValuesTellOrdersApart) {
  // Otherwise the two tests above could not fail.
  int different = 0;
  for (std::int64_t slices = 3; slices <= 40; ++slices) {
    const std::vector<float> values = awkward_values(slices, 100 + static_cast<std::uint64_t>(slices));
    float from_the_right = 0;
    for (std::size_t i = values.size(); i-- > 0;) from_the_right += values[i];
    different += bits(from_the_right) != bits(direct_sum(values, 0, slices));
  }
  EXPECT_GE(different, 20);
}

TEST(Tree, CompletesAnInnerNode) {
  const std::vector<float> values = awkward_values(12, 3);
  const std::vector<Node> parts = {{8, 10}, {10, 11}, {11, 12}};
  std::vector<float> sums;
  for (const Node& p : parts) sums.push_back(direct_sum(values, p.begin, p.end));
  EXPECT_EQ(bits(run_program(completion_program(12, {8, 12}, parts), sums)), bits(direct_sum(values, 8, 12)));
}

TEST(Tree, RefusesPartsThatDoNotTileTheTree) {
  EXPECT_THROW(completion_program(8, {{0, 4}}), InternalError);                  // a gap at the end
  EXPECT_THROW(completion_program(8, {{0, 4}, {6, 8}}), InternalError);          // a gap inside
  EXPECT_THROW(completion_program(8, {{0, 4}, {4, 8}, {4, 8}}), InternalError);  // one too many
  EXPECT_THROW(completion_program(8, {{0, 3}, {3, 8}}), InternalError);          // no nodes
  EXPECT_THROW(completion_program(8, {{4, 8}, {0, 4}}), InternalError);          // out of order
  EXPECT_THROW(completion_program(8, {}), InternalError);
  EXPECT_THROW(completion_program(12, {2, 6}, {{2, 6}}), InternalError);  // no such root
  EXPECT_THROW(completion_program(0, {}), InternalError);
}

TEST(Tree, TreeSumAddsAlongTheTree) {
  for (std::int64_t n = 1; n <= 70; ++n) {
    const std::vector<float> values = awkward_values(n, 11);
    const float sum = tree_sum(values.data(), n, [](float a, float b) { return a + b; });
    ASSERT_EQ(bits(sum), bits(direct_sum(values, 0, n)));
  }
}

}  // namespace
}  // namespace lockstep
