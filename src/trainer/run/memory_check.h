#pragma once

#include <cstdint>
#include <string>

#include "device/machine_memory.h"
#include "model/graph/graph.h"

namespace lockstep {

/// Throws ConfigError where a step of `batch` samples, the value of the config key `key`, in `slices` slices
/// cannot fit into `memory` bytes: by a lower bound, the parameters, their gradient, and the input and the
/// widest value of one slice. What passes may still be too large, and then fails when it is allocated.
void check_memory(const Graph& graph, const std::string& key, std::int64_t batch, std::int64_t slices,
                  double memory = machine_memory());

/// The same for the evaluation that such a model gets, of `samples` samples in batches of `batch`, the value
/// of train.eval_batch: by a lower bound again, the parameters, the outputs of the batch that a rank holds,
/// and for classes the counts of (label, prediction) pairs, of which there are no more than samples.
void check_evaluation_memory(const Graph& graph, std::int64_t batch, std::int64_t slices, int ranks,
                             std::int64_t samples, double memory = machine_memory());

}  // namespace lockstep
