#pragma once

#include <memory>
#include <vector>

#include "model/cpu/kernels/kernel.h"
#include "model/plan/executor.h"
#include "model/plan/memory_plan.h"
#include "model/plan/row_lengths.h"

namespace lockstep::cpu {

/// One op of the plan: a kernel that stands for one node or several fused ones.
struct PlannedOp {
  std::unique_ptr<Kernel> kernel;
  Binding at;
  std::vector<int> nodes;  ///< of the graph, in order; nodes.front() holds the parameters
  std::vector<ValueId> inputs;
  ValueId output = -1;
  bool has_backward = false;
  PaddingMask mask;  ///< of its output, and of that value's gradient
  Range flat;        ///< of the flat gradient that is final when its backward has ended; may be empty
};

/// dst += src over one value's gradient, when a value has several consumers.
struct Accumulate {
  std::size_t dst = none;
  std::size_t src = none;
  std::int64_t elements = 0;  ///< of a slice
};

/// One step of the backward pass.
struct BackwardItem {
  int op = 0;                          ///< index into Plan::ops
  std::vector<Accumulate> accumulate;  ///< after the op's backward
  /// Of an op without a backward pass whose parameters are not trained: their gradient. Else empty.
  std::vector<Range> zeros;
};

/// A compiled graph: pure data besides the kernels, made once, read by tests.
struct Plan {
  std::vector<PlannedOp> ops;          ///< in forward order
  std::vector<BackwardItem> backward;  ///< in the order of execution
  std::vector<MemoryRequest> memory;   ///< the arena of one slice in flight
  std::size_t arena_bytes = 0;
  std::size_t scratch_bytes = 0;
  std::size_t prepared_bytes = 0;
  std::vector<std::size_t> input_offset;  ///< arena offset of each graph input
  std::size_t output_offset = none;       ///< arena offset of the graph's output, plain
  std::size_t lengths_offset = none;      ///< arena offset of (Graph::lengths, rows) int32
  PlannedOp loss;                         ///< its input is the output; its `saved` holds LossSums per row
  FlatLayout layout;
  std::int64_t rows = 0;
  bool training = true;
  Precision precision = Precision::fp32;
  std::vector<ValueLayout> layouts;  ///< of every value of the graph
};

/// Compiles `graph` for slices of `rows` rows on `lanes` lanes. The flat layout depends on the graph and the
/// machine only, and on the precision, which is fp32 or bf16.
Plan make_plan(const Graph& graph, std::int64_t rows, bool training, int lanes,
               Precision precision = Precision::fp32);

}  // namespace lockstep::cpu
