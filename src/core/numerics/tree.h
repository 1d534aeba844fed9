#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "core/numerics/philox.h"

// The one canonical binary tree along which everything is summed over slices (and, for sums over
// elements, over blocks): node [begin, end) splits at begin plus the largest power of two below its
// length. The tree depends on the count of leaves alone, never on who holds them.

namespace lockstep {

struct Node {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  LOCKSTEP_HOST_DEVICE constexpr std::int64_t size() const { return end - begin; }
  friend constexpr bool operator==(const Node&, const Node&) = default;
};

/// Where a node of two or more leaves splits.
LOCKSTEP_HOST_DEVICE constexpr std::int64_t split_of(Node node) {
  std::int64_t half = 1;
  while (half * 2 < node.size()) half *= 2;
  return node.begin + half;
}

/// The maximal nodes of the tree over `leaves` leaves that lie inside [range.begin, range.end), in order.
/// They cover the range exactly. Empty for an empty range.
std::vector<Node> maximal_subtrees(std::int64_t leaves, Node range);

/// One instruction of a stack program that completes a sum: push operand `operand`, or (operand < 0)
/// add the two on top, left operand below.
struct TreeOp {
  std::int32_t operand = -1;
};

/// The program that sums subtree sums `parts`, which must tile [0, leaves) by nodes of its tree, into
/// the root. Operand i is parts[i]. `parts` that do not tile the tree are an InternalError.
std::vector<TreeOp> completion_program(std::int64_t leaves, const std::vector<Node>& parts);

/// The same, into the node `root` of the tree over `leaves` leaves, from parts that tile `root`.
std::vector<TreeOp> completion_program(std::int64_t leaves, Node root, const std::vector<Node>& parts);

/// The sum of values[0..n) along the tree; `add` is called as add(left, right). n >= 1.
template <class T, class Add>
T tree_sum(const T* values, std::int64_t n, Add add) {
  if (n == 1) return values[0];
  const std::int64_t half = split_of(Node{0, n});
  return add(tree_sum(values, half, add), tree_sum(values + half, n - half, add));
}

/// Elements per block of sums over elements; bucket and shard edges lie on multiples of it.
inline constexpr std::int64_t block_elements = 4096;

}  // namespace lockstep
