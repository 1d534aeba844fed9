#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "data/normalize.h"
#include "device/lane_pool.h"
#include "model/plan/executor.h"
#include "trainer/evaluate/classification_report.h"
#include "trainer/evaluate/regression.h"
#include "trainer/infer/inference_session.h"
#include "trainer/step/compute_device.h"

namespace lockstep {

/// What a pass over a data set measured; equal on every rank, and the same bits at any placement. Where the
/// model gives NaN or infinity for a sample there are no scores at all: `loss` and `accuracy` are NaN, the
/// rest is empty.
struct Evaluation {
  std::int64_t samples = 0;
  double loss = 0;                       ///< mean over samples; of scaled targets where they are scaled
  double accuracy = 0;                   ///< classification only
  std::vector<ConfusionCell> confusion;  ///< classification only
  std::vector<TargetScore> targets;      ///< regression only: per target, in the units of the data
  std::int64_t nonfinite = 0;            ///< samples for which the model gives NaN or infinity
  std::int64_t first_nonfinite = -1;     ///< the first of them
  bool finite() const { return std::isfinite(loss); }
};

/// "the model gives NaN or infinity for 3 of 90 samples, the first is 'a.csv' line 7". Of one that is not
/// finite.
std::string nonfinite_text(const Evaluation& evaluation, const Dataset& data);

/// Runs a model forward over whole data sets, every sample once, shared among the ranks by slices as in
/// training.
class Evaluator {
 public:
  /// (all) `batch` rows at a time in `slices` slices (slices divides batch); ranks beyond the slices do
  /// nothing. `loader_cpus`: where loader threads may run; empty: wherever the caller may. `plan_choice`: the
  /// library plans to take, see ExecutorOptions; empty: rank 0 picks them.
  Evaluator(const Graph& graph, std::int64_t batch, std::int64_t slices, Communicator& comm, LanePool& lanes,
            std::vector<int> loader_cpus = {}, const ComputeDevice& device = {},
            const std::string& plan_choice = {});

  Executor& executor() { return session_.executor(); }

  /// Called before the first batch and after every one with the samples that are done and all of them; by
  /// this rank only.
  using Tell = std::function<void(std::int64_t done, std::int64_t all)>;
  void tell_progress(Tell tell) { tell_ = std::move(tell); }

  /// (all) `parameters`: flat, in the executor's layout. The data set must have labels or targets.
  Evaluation run(const std::shared_ptr<const Dataset>& data, const Normalizer& normalizer,
                 std::span<const float> parameters, int workers);

  /// (all) Calls `emit` on rank 0 for every sample in order with the model's output (logits or predictions),
  /// none of which is NaN or infinite: at the first that would be, throws DivergenceError alike on every
  /// rank.
  void predict(const std::shared_ptr<const Dataset>& data, const Normalizer& normalizer,
               std::span<const float> parameters, int workers,
               const std::function<void(std::int64_t index, std::span<const float> output)>& emit);

 private:
  LoaderOptions loading(const std::shared_ptr<const Dataset>& data, const Normalizer& normalizer,
                        int workers) const;
  /// Counts the rows of this rank's slices that hold NaN or infinity in `found`; true where there are none.
  bool check_outputs(std::span<const Batch> slices, Evaluation& found) const;

  std::int64_t batch_;
  std::int64_t slices_;
  bool labels_;                // one class for each sample
  bool targets_;               // numbers for each sample
  bool counts_rows_;           // every sample weighs 1 in the loss
  std::vector<Field> fields_;  // of the graph
  std::size_t answer_field_;   // among them: what the loss takes
  Communicator& comm_;
  std::vector<int> loader_cpus_;
  Node mine_;
  InferenceSession session_;
  Tell tell_;
};

/// Index of the largest of `values`; the first of equal ones. A NaN is never larger.
std::int64_t largest(std::span<const float> values);

}  // namespace lockstep
