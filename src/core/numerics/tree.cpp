#include "core/numerics/tree.h"

#include "core/error.h"

namespace lockstep {
namespace {

void collect(Node node, Node range, std::vector<Node>& out) {
  if (node.end <= range.begin || node.begin >= range.end) return;
  if (range.begin <= node.begin && node.end <= range.end) {
    out.push_back(node);
    return;
  }
  const std::int64_t middle = split_of(node);
  collect({node.begin, middle}, range, out);
  collect({middle, node.end}, range, out);
}

void emit(Node node, const std::vector<Node>& parts, std::size_t& next, std::vector<TreeOp>& program) {
  require(next < parts.size(), "completion_program: the parts do not cover the tree");
  if (parts[next] == node) {
    program.push_back({static_cast<std::int32_t>(next++)});
    return;
  }
  require(node.size() > 1, "completion_program: a part is no node of the tree");
  const std::int64_t middle = split_of(node);
  emit({node.begin, middle}, parts, next, program);
  emit({middle, node.end}, parts, next, program);
  program.push_back({-1});
}

/// Throws unless `node` is a node of the tree over `leaves` leaves.
void require_node(std::int64_t leaves, Node node) {
  Node at{0, leaves};
  while (!(at == node)) {
    require(at.size() > 1 && at.begin <= node.begin && node.end <= at.end,
            "completion_program: no such node");
    const std::int64_t middle = split_of(at);
    at = node.begin < middle ? Node{at.begin, middle} : Node{middle, at.end};
  }
}

}  // namespace

std::vector<Node> maximal_subtrees(std::int64_t leaves, Node range) {
  std::vector<Node> out;
  if (leaves > 0 && range.size() > 0) collect({0, leaves}, range, out);
  return out;
}

std::vector<TreeOp> completion_program(std::int64_t leaves, const std::vector<Node>& parts) {
  return completion_program(leaves, {0, leaves}, parts);
}

std::vector<TreeOp> completion_program(std::int64_t leaves, Node root, const std::vector<Node>& parts) {
  require_node(leaves, root);
  std::vector<TreeOp> program;
  std::size_t next = 0;
  emit(root, parts, next, program);
  require(next == parts.size(), "completion_program: parts are left over");
  return program;
}

}  // namespace lockstep
