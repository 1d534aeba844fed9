#pragma once

#include <cstdint>
#include <string>

#include "core/timeline.h"
#include "trainer/checkpoint/run_directory.h"
#include "trainer/checkpoint/run_state.h"
#include "trainer/evaluate/evaluation.h"
#include "trainer/guard/safeguards.h"
#include "trainer/run/job.h"
#include "trainer/run/run_data.h"
#include "trainer/run/run_setup.h"
#include "trainer/step/train_step.h"

namespace lockstep {

/// How far a training run has come; the same on every rank.
struct RunCourse {
  std::int64_t steps = 0;  ///< done, with those whose batch was left out
  BestValidation best;
  bool new_best = false;  ///< the weights of this step are the best, and are not saved yet
  bool any_fast = false;  ///< some part of the run used the fast reduction
  EpochSums epoch_sums;
  double last_loss = 0;
  std::int64_t samples_here = 0;  ///< since this process began
  std::uint64_t stopped_by = 0;   ///< the word by which it was asked to stop and did; 0: none
};

/// What the parts of a training run have in common. TrainingRun makes it; everything outlives the parts.
struct RunParts {
  const Job& job;
  RunSetup& setup;
  RunData& data;
  RunDirectory& directory;
  Timeline& timeline;
  const Lanes& lanes;
  const ComputeDevice& device;
  TrainStep& step;
  Evaluator& evaluator;
  Safeguards& safeguards;
  RunCourse& course;
  const BatchFields& fields;                                      ///< how training batches are made
  const std::shared_ptr<const std::vector<float>>& loss_weights;  ///< LoaderOptions::weights
  std::string fingerprint;                                        ///< of this machine and plan

  const Config& config() const { return setup.config; }
  bool finished() const { return course.steps >= setup.end_steps; }
  /// Of the next batch.
  DataPosition position() const;
};

}  // namespace lockstep
