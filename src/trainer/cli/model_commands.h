#pragma once

#include "trainer/config/config.h"
#include "trainer/run/job.h"

namespace lockstep {

// Commands that use a trained model. (all) Each returns the exit code and throws lockstep::Error.

/// `lockstep evaluate --run DIR`: metrics on a split, every sample counted once; with --output FILE also as
/// JSON.
int evaluate_command(const CommandLine& command, Job& job);

/// `lockstep predict --run DIR --input FILE`: a row a sample in input order, as PredictionRows makes them,
/// written by rank 0. `-` is standard input, which rank 0 reads.
int predict_command(const CommandLine& command, Job& job);

/// `lockstep export --run DIR --format safetensors --output FILE`: the weights, and in the metadata
/// "lockstep.preprocessing" (what preprocessing.json holds) and, where classes have names,
/// "lockstep.class_names" (a JSON list). (one) Needs no ranks.
int export_command(const CommandLine& command, const Log& log);

}  // namespace lockstep
