#include "comm/sync/tree_completion.h"

#include <algorithm>

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

}  // namespace lockstep
