#include "comm/sync/tree_completion.h"

#include <algorithm>
#include <array>

#include "core/error.h"

namespace lockstep {

MergeProgram merge_program(const std::vector<TreeOp>& program) {
  MergeProgram result;
  int waiting = 0;
  for (const TreeOp op : program) {
    if (op.operand >= 0) {
      require(op.operand == static_cast<std::int32_t>(result.merges.size()),
              "merge_program: the program does not take its parts in order");
      result.merges.push_back(0);
      result.depth = std::max(result.depth, ++waiting);
      continue;
    }
    require(waiting >= 2, "merge_program: an addition without two operands");
    --waiting;
    ++result.merges.back();
  }
  require(waiting == 1, "merge_program: the program does not leave one sum");
  require(result.depth <= completion_depths[std::size(completion_depths) - 1],
          "merge_program: the tree is too deep");
  return result;
}

MergeProgram chain_program(std::size_t parts) {
  require(parts > 0, "chain_program: no parts");
  MergeProgram result;
  result.merges.assign(parts, 1);
  result.merges.front() = 0;
  result.depth = parts > 1 ? 2 : 1;
  return result;
}

double block_squares_by_threads(const float* block, std::int64_t count) {
  std::array<double, square_threads> sums{};
  for (std::int64_t i = 0; i < count; ++i) {
    const double v = static_cast<double>(block[i]);
    sums[static_cast<std::size_t>(i % square_threads)] += v * v;
  }
  for (std::size_t half = square_threads / 2; half > 0; half /= 2) {
    for (std::size_t t = 0; t < half; ++t) sums[t] += sums[t + half];
  }
  return sums[0];
}

}  // namespace lockstep
