#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/sync/gradient_sync.h"
#include "model/plan/executor.h"
#include "trainer/guard/slice_probe.h"

namespace lockstep {

/// Where a bad step came from; equal on every rank.
struct FaultReport {
  std::string what;                   ///< a clause for people: op, parameter, slices, samples
  std::string op;                     ///< the layer whose op first computed it; empty: none did again
  std::string parameter;              ///< the first parameter whose gradient holds it; may be empty
  bool in_parameters = false;         ///< some rank's parameters are not finite themselves
  std::vector<std::int64_t> slices;   ///< global numbers, ascending
  std::vector<std::int64_t> samples;  ///< indices into the training set; where samples of a slice act on each
                                      ///< other (batch norm): all of the slice
};

/// What the search works on: one step, as this rank has it.
struct FaultScene {
  Communicator& comm;
  const Graph& graph;
  SliceProbe& probe;
  std::span<const Batch> batches;     ///< this rank's slices
  std::span<const float> parameters;  ///< as they were in the step
  std::span<const TotalView> totals;  ///< of the step
  std::uint64_t seed = 0;
  std::int64_t step = 0;
};

/// (all) Computes every slice once more and looks where a NaN or an infinity comes from.
FaultReport find_nonfinite(const FaultScene& scene);

/// (all) The same for a mean loss above `bound`: slices whose mean loss is above it, and in them the samples;
/// of the slice with the highest loss the parameter whose gradient has the largest norm, and its op.
FaultReport find_spike(const FaultScene& scene, double bound);

/// "3, 17, 40 and 5 more"
std::string list_text(std::span<const std::int64_t> values, std::size_t most = 16);

}  // namespace lockstep
