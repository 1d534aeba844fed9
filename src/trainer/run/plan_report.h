#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "comm/sync/gradient_sync.h"
#include "data/epoch_order.h"
#include "model/graph/graph.h"
#include "model/plan/executor.h"
#include "optim/optimizer.h"
#include "trainer/config/config.h"

namespace lockstep {

/// What --dry-run prints: the model table (output shapes, parameters, FLOPs), memory, buckets, bytes a step.
/// Of this rank.
std::string plan_text(const Graph& graph, const Config& config, const Executor& executor,
                      const GradientSync& sync, const Optimizer& optimizer, int ranks,
                      const EpochOrder& order, std::int64_t steps);

/// The metadata of a model.safetensors.
std::map<std::string, std::string> model_metadata(const Graph& graph, std::int64_t steps, bool any_fast);

}  // namespace lockstep
