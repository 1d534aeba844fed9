#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "model/graph/graph.h"
#include "trainer/config/config.h"

namespace lockstep {

/// The batch norm of a graph that sees the fewest values, and how many of a channel it sees in one row:
/// height x width, or 1 where its input is flat or comes from a global pool.
struct FewestNormValues {
  std::string layer;
  std::int64_t per_row = 1;
};
/// Nothing where there is no batch norm.
std::optional<FewestNormValues> fewest_norm_values(const Graph& graph);

/// S: train.slices, or what suits config, graph and kind of device, never the number of ranks. On a CPU
/// without batch norm the larger of 8 and 4 that leaves at least 16 rows a slice; else the smallest number
/// from 4 (to 128) on, so that up to four ranks have work; else 3, 2 or 1. It divides train.global_batch, and
/// train.eval_batch where that is given, and leaves every batch norm at least four values a channel, of a set
/// of `samples` that is smaller than a batch too, and no slice of the last batch of an epoch only one, unless
/// any number of slices would.
std::int64_t resolve_slices(const Config& config, const Graph& graph, const std::string& device,
                            std::int64_t samples);

/// Throws ConfigError where there are more ranks than slices, with values of train.slices that would do.
void check_enough_slices(const Config& config, const Graph& graph, int ranks);

/// What is doubtful about the slices of a graph with batch norm, in one sentence; empty where nothing is.
/// With one value a channel a batch norm gives 0, whatever comes in, and nothing below it learns. Throws
/// ConfigError where that is so in every slice of every batch, unless the slices are `kept`, those of a run
/// that is resumed: then it is a remark too.
std::string norm_remark(const Config& config, const Graph& graph, std::int64_t samples, bool kept);

}  // namespace lockstep
