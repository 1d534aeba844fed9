#pragma once

#include <cstdint>
#include <string>

#include "model/graph.h"

namespace lockstep {

/// Bytes of memory that this machine has.
double machine_memory();

/// Throws ConfigError where a step of `batch` samples, the value of the config key `key`, in `slices` slices
/// cannot fit into `memory` bytes: by a lower bound, the parameters, their gradient, and the input and the
/// widest value of one slice. What passes may still be too large, and then fails when it is allocated.
void check_memory(const Graph& graph, const std::string& key, std::int64_t batch, std::int64_t slices,
                  double memory = machine_memory());

}  // namespace lockstep
