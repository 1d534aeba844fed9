#pragma once

#include <cstddef>
#include <vector>

#include "model/cuda/kernels/numbers.h"
#include "model/plan/fusion.h"

namespace lockstep::cuda {

/// Which dense layers may compute a GELU beside them. By op, all -1 where there is nothing.
struct GeluFusion {
  explicit GeluFusion(std::size_t ops = 0) : given_by(ops, -1), slope_by(ops, -1) {}
  std::vector<int> given_by;  ///< of a GELU: the dense layer whose result it takes, alone
  std::vector<int> slope_by;  ///< of a GELU: the dense layer that takes its result, alone: its data gradient
                              ///< may be multiplied by GELU's slope
};

/// Not in strict float32: cuBLASLt does not say how accurately its epilogues compute GELU, and PTX's
/// tanh.approx.f32 is off by up to 2^-11, as much as the rounding of factors to TF32 that strict float32 is
/// there to exclude. And only rows of a multiple of 8 elements, as cuBLASLt wants them of GELU's input
/// (CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD).
GeluFusion fuse_gelus(const lockstep::Graph& graph, const std::vector<FusedOp>& ops, Precision precision);

}  // namespace lockstep::cuda
