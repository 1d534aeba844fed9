#pragma once

#include "model/graph/op_entry.h"

namespace lockstep::ops {

/// Batch normalisation: Ioffe and Szegedy 2015, algorithm 1; backward from the equations of section 3.
/// y = weight * (x - mean) / sqrt(variance + epsilon) + bias, per channel (C, H, W) or per feature (C).
/// Training: mean and biased variance over the first `valid` rows of the slice. Rows beyond are normalised
/// with the same statistics and contribute nothing: not to the statistics, not to any gradient (their
/// diff_output is not read, their diff_input stays 0). Batch statistics: [0] the mean, [1] the unbiased
/// variance n/(n-1) * biased, where n counts the elements of a channel in valid rows; 0 for n = 1, where the
/// biased variance is 0 as well. With no valid row: output, batch statistics and gradients are all 0. Not
/// training: the running statistics are used. Parameters: weight (C), bias (C). Statistics: running_mean (C),
/// running_var (C).
const OpEntry& batch_norm_op();

}  // namespace lockstep::ops

namespace lockstep {

/// Ioffe and Szegedy 2015, over one slice's valid rows. running = (1 - momentum) * running + momentum *
/// batch, with the unbiased batch variance, as in PyTorch. Rank 3 input: per channel; rank 1: per feature.
struct BatchNormAttrs {
  double epsilon = 1e-5;
  double momentum = 0.1;
  static const OpEntry& entry() { return ops::batch_norm_op(); }
};

}  // namespace lockstep
