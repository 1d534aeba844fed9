#pragma once

#include <vector>

#include "model/cuda/kernels/numbers.h"
#include "model/graph/graph.h"
#include "model/plan/fusion.h"

namespace lockstep::cuda {

/// Which batch norms are computed together with the convolution in front of them. By op of fuse_ops(); -1
/// where there is nothing.
struct NormFusion {
  explicit NormFusion(std::size_t ops = 0) : joins(ops, -1), sums_from(ops, -1), masked_by(ops, -1) {}
  /// Of a convolution, in inference: the norm that takes it whole. With running statistics a norm is a scale
  /// and a shift per channel of the convolution's result, which nobody else reads.
  std::vector<int> joins;
  /// Of a norm, in training: the convolution that may sum its result and its squares while it writes them.
  std::vector<int> sums_from;
  /// Of a norm with ReLU, in training: the convolution that alone takes its result, and may mask the gradient
  /// and sum it for the norm while it computes it. With a residual in between the sign cannot be had from the
  /// norm's input.
  std::vector<int> masked_by;
};

/// In training: only 16-bit formats, for which alone cuDNN has such plans, and only where empty rows hold
/// zeros, since a library sums every row. Those of gradients do everywhere: the loss's are zeros, and what is
/// behind it is linear in them.
NormFusion fuse_norms(const lockstep::Graph& graph, const std::vector<FusedOp>& ops, bool training,
                      Precision precision);

/// By value: whether its empty rows are certain to hold zeros in training, given that those of the input do
/// (Batch). So it is behind batch norm and dropout, whose kernels write zeros there; a bias ends it.
std::vector<bool> values_with_zero_rows(const lockstep::Graph& graph, const std::vector<FusedOp>& ops);

}  // namespace lockstep::cuda
