#pragma once

#include "trainer/config.h"
#include "trainer/job.h"

namespace lockstep {

// Commands that use a trained model. (all) Each returns the exit code and throws lockstep::Error.

/// `lockstep evaluate --run DIR`: metrics on a split, every sample counted once.
int evaluate_command(const CommandLine& command, Job& job);

/// `lockstep predict --run DIR --input FILE`: one JSON object a line in input order, written by rank 0:
/// index, and for classification "label" (index of the class), "class" (its name, where it has one),
/// "probability" and "probabilities"; for regression "prediction" (one number, or a list).
int predict_command(const CommandLine& command, Job& job);

/// `lockstep export --run DIR --format safetensors --output FILE`. (one) Needs no ranks.
int export_command(const CommandLine& command, const Log& log);

}  // namespace lockstep
