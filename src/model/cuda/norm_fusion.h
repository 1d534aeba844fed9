#pragma once

#include <vector>

#include "model/cuda/numbers.h"
#include "model/fusion.h"
#include "model/graph.h"

namespace lockstep::cuda {

/// Which batch norms are computed together with the convolution in front of them. By op of fuse_ops(); -1
/// where there is nothing.
struct NormFusion {
  /// Of a convolution, in inference: the norm that takes it whole. With running statistics a norm is a scale
  /// and a shift per channel of the convolution's result, which nobody else reads.
  std::vector<int> joins;
  /// Of a norm, in training: the convolution that may sum its result and its squares while it writes them.
  std::vector<int> sums_from;
};

/// In training: only 16-bit formats, for which alone cuDNN has such plans, and only where the empty rows of
/// the convolution's result are zeros, since a library sums every row.
NormFusion fuse_norms(const lockstep::Graph& graph, const std::vector<FusedOp>& ops, bool training,
                      Precision precision);

/// By value: whether its empty rows are certain to hold zeros in training, given that those of the input do
/// (SliceBatch). So it is behind batch norm and dropout, whose kernels write zeros there; a bias ends it.
std::vector<bool> values_with_zero_rows(const lockstep::Graph& graph, const std::vector<FusedOp>& ops);

}  // namespace lockstep::cuda
