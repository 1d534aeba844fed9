#pragma once

#include <vector>

#include "model/graph/graph.h"

namespace lockstep {

/// What one planned op stands for, on any device: a node, or several fused ones.
struct FusedOp {
  std::vector<int> nodes;  ///< in order; the first holds the parameters
  bool relu = false;       ///< a ReLU follows
  bool residual = false;   ///< (batch norm) a second input is added before the ReLU
  std::vector<ValueId> inputs;
  ValueId output = -1;
};

/// Fuses ReLU into convolution, dense and batch norm, and the residual addition into batch norm. A fused op
/// stands at the place of its last node, where all its inputs exist.
std::vector<FusedOp> fuse_ops(const Graph& graph);

/// Values whose gradient somebody needs: those that depend on a parameter that is trained.
std::vector<bool> values_with_gradient(const Graph& graph);

}  // namespace lockstep
