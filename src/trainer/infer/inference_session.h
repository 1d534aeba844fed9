#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/numerics/tree.h"
#include "device/lane_pool.h"
#include "model/graph/graph.h"
#include "model/plan/executor.h"
#include "trainer/step/compute_device.h"

namespace lockstep {

struct InferenceOptions {
  std::int64_t slice_rows = 1;  ///< rows of a slice
  std::int64_t slices = 1;      ///< of a batch, over all ranks
  Node mine{0, 1};              ///< the slices of this rank; may be none
  std::string plan_choice;      ///< library plans to take, see ExecutorOptions; empty: rank 0 picks them
};

/// A model compiled to answer: forward passes over slices of rows, with parameters that others hold. It knows
/// no training step and no data set. Several sessions, also of different models, may share one LanePool, and
/// may share it with a TrainStep: each call has all lanes for itself, so one thread calls them, one after the
/// other. What a session answers does not depend on the others.
class InferenceSession {
 public:
  /// (all) Compiles `graph` for `device`. `lanes` and `comm` must outlive this object; of `comm`, only the
  /// constructor sends messages.
  InferenceSession(const Graph& graph, const InferenceOptions& options, const ComputeDevice& device,
                   Communicator& comm, LanePool& lanes);
  ~InferenceSession();

  /// The parameters and statistics of the runs that follow: flat, in the executor's layout, in host memory.
  /// They must stay as they are until the last of these runs; to be called again where they have changed.
  void use(std::span<const float> parameters);
  /// Computes the slices of this rank, one for each of options.mine. Not before use().
  void run(std::span<const Batch> slices);

  /// Of the last run, by slice of this rank: (slice_rows, width()), of which the valid rows mean something.
  std::span<const std::vector<float>> outputs() const { return outputs_; }
  /// Likewise: losses, where the slices had labels or targets.
  std::span<const SliceResult> results() const { return results_; }
  /// Elements of the model's output for one row.
  std::int64_t width() const { return width_; }
  Executor& executor() { return *executor_; }
  const Executor& executor() const { return *executor_; }

 private:
  class Ticker;

  std::int64_t width_;
  std::unique_ptr<Executor> executor_;
  std::vector<std::vector<float>> outputs_;
  std::vector<std::span<float>> output_views_;
  std::vector<SliceResult> results_;
  std::unique_ptr<Ticker> ticker_;  // null where nobody watches
  StepInputs inputs_;
};

}  // namespace lockstep
