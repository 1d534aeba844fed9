#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/numerics/loss_scale.h"
#include "trainer/data/content.h"

namespace lockstep {

/// Where the data stand after a number of steps.
struct DataPosition {
  std::int64_t samples = 0;  ///< consumed since the beginning of the run
  std::int64_t epoch = 0;    ///< that the next sample lies in, from 0
  friend bool operator==(const DataPosition&, const DataPosition&) = default;
};

/// The position after `steps` >= 0 batches of a training set of `samples` >= 1 in batches of `batch` >= 1, of
/// which none crosses the end of an epoch. Every batch is a step, also one that was left out. Nothing where
/// it is beyond int64.
std::optional<DataPosition> data_position(std::int64_t steps, std::int64_t samples, std::int64_t batch);

/// What the training of one epoch has summed up so far, over all ranks; losses are not divided.
struct EpochSums {
  double loss = 0;
  double correct = 0;
  double weight = 0;   ///< what the loss is divided by: of most losses samples
  double counted = 0;  ///< places that may be correct
  friend bool operator==(const EpochSums&, const EpochSums&) = default;
};

/// The best validation of a run so far.
struct BestValidation {
  std::optional<double> metric;  ///< the larger, the better: the accuracy, or the loss with its sign turned
  std::optional<double> loss;    ///< of the same validation; unknown in runs of older versions
  std::int64_t step = -1;        ///< that reached it; -1: none
  std::string name;              ///< of the metric: accuracy or loss; empty in runs of older versions
};

/// A batch that left no trace in the model.
struct SkippedBatch {
  std::int64_t step = 0;              ///< batches before it
  std::int64_t position = 0;          ///< data position of its first sample
  std::int64_t epoch = 0;             ///< from 0
  std::string reason;                 ///< one sentence
  std::vector<std::int64_t> samples;  ///< all of them, in the order of the batch
  friend bool operator==(const SkippedBatch&, const SkippedBatch&) = default;
};

/// What the guards know of the steps so far.
struct GuardState {
  std::vector<SkippedBatch> skipped;          ///< ascending steps
  std::optional<std::vector<double>> losses;  ///< of the last steps, oldest first; nothing where spikes are
                                              ///< not watched
  friend bool operator==(const GuardState&, const GuardState&) = default;
};

/// The library plans that a run computes with, as Executor::plan_choice() tells them; empty: none.
struct PlanChoices {
  std::string training;
  std::string evaluation;
  std::int64_t evaluation_rows = 0;  ///< of the slices that the latter are for
};

/// What a checkpoint holds besides tensors: all that a run needs to go on with the same bits.
struct RunState {
  int generation = 0;         ///< the job start that saved it; set by the one who saves
  std::int64_t step = 0;      ///< batches taken, those left out by a guard included
  std::int64_t position = 0;  ///< data_position() of `step`. Both are kept, so that a resume sees where the
  std::int64_t epoch = 0;     ///< training set has another size
  std::int64_t slices = 0;    ///< S
  std::int64_t horizon = 0;   ///< steps of the learning rate schedule
  BestValidation best;        ///< its numbers are finite
  std::string config;         ///< config.resolved.ini as text, schedule.changes included
  std::string fingerprint;    ///< of the machine and the plan, as text
  std::string reduction = "ordered";  ///< train.reduction of the job that saved it
  bool any_fast = false;  ///< some part of the run used the fast reduction: its bits depend on placement
  EpochSums epoch_sums;
  std::optional<LossScale> loss_scale;  ///< nothing in checkpoints of older versions; likewise below
  std::string preprocessing_sha256;     ///< of preprocessing.json, 64 digits; empty: unknown
  std::optional<DataRecord> data;
  GuardState guard;
  PlanChoices plans;
  /// Why what only a resume needs could not be read, a clause: then a resume is refused, and whoever only
  /// looks at the checkpoint sees the rest. Empty: all of it could be read. Never written.
  std::string fault;
};

/// One object, whose keys are those of manifest.json. The strings of `state` must be UTF-8 when it becomes
/// text. Numbers that are not finite are an internal error.
nlohmann::json to_json(const RunState& state);

/// Reads what to_json() of this or an older version wrote; other keys are not looked at. Throws
/// json::exception for a key that is missing or of another kind, and JsonNumberError for a value that no
/// Lockstep writes; of the keys in "extra" RunState::fault tells.
RunState run_state_from_json(const nlohmann::json& document);

}  // namespace lockstep
