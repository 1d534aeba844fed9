#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "comm/world.h"
#include "core/timeline.h"
#include "trainer/checkpoint/run_directory.h"
#include "trainer/evaluate/evaluation.h"
#include "trainer/guard/safeguards.h"
#include "trainer/run/job.h"
#include "trainer/run/lease.h"
#include "trainer/run/run_data.h"
#include "trainer/run/run_files.h"
#include "trainer/run/run_parts.h"
#include "trainer/run/run_reporter.h"
#include "trainer/run/run_saves.h"
#include "trainer/run/run_setup.h"
#include "trainer/run/run_stop.h"
#include "trainer/run/training_loop.h"
#include "trainer/step/train_step.h"

namespace lockstep {

/// One training run on this rank: from a resolved config to the files of the run directory. It makes the
/// parts in order and holds them: RunData and RunSetup (what is decided), the step and the evaluation (what
/// computes), RunSaves and RunFiles (what is kept), TrainingLoop, and RunReporter (what is told).
class TrainingRun {
 public:
  /// (all) Opens data, compiles the model, compares fingerprints, prepares the run directory (not with
  /// dry_run), and starts afresh or from the newest whole checkpoint. Throws lockstep::Error, alike on every
  /// rank or silent on others.
  TrainingRun(Config config, Job& job);
  ~TrainingRun();

  /// (all) Prints what --dry-run promises, on rank 0.
  void describe_plan();
  /// (all) Trains to the end, evaluates, writes the final files. Returns the exit code.
  int run();
  /// After an error, of which `why` tells: see TrainStep::abandon().
  void abandon(const std::string& why) noexcept;

 private:
  /// (all) Whether a resume goes on with the slices that the run has had.
  bool keeps_slices();
  void make_setup(const DeviceChoice& choice);
  /// Lanes, device, step and evaluation.
  World make_lanes_and_tell(const DeviceChoice& choice);
  void compile(const DeviceChoice& choice);
  /// The options of the step, with what asks the safeguards and the hooks of tests.
  TrainStepOptions guarded_options(TrainStepOptions options);
  void check_fingerprints();
  void make_safeguards(const World& world);
  void open_run_directory();
  void start();
  void resume();
  /// Throws where there is nothing to resume from. What of the schedule has no effect from there on.
  std::vector<std::string> restore();
  void tell_of_start();

  const Config given_;
  Job& job_;
  Timeline timeline_;
  RunDirectory directory_;
  std::optional<RunData> data_;
  std::optional<RunSetup> setup_;
  BatchFields fields_;                                      // how training batches are made
  std::shared_ptr<const std::vector<float>> loss_weights_;  // of every training sample; null: 1
  Lanes lanes_;
  ComputeDevice device_;                  // ends after all that is compiled for it
  std::unique_ptr<Communicator> shared_;  // what the step and the evaluation use
  PlanChoices stored_plans_;              // of the checkpoint that a resume goes on from
  std::unique_ptr<TrainStep> step_;
  std::unique_ptr<Evaluator> evaluator_;
  std::unique_ptr<Safeguards> safeguards_;
  std::string fingerprint_;
  RunCourse course_;
  std::unique_ptr<Lease>
      lease_;  // rank 0; none with --dry-run, as all that follows. Ends after all that is saved
  std::optional<RunParts> parts_;
  std::optional<RunSaves> saves_;
  std::optional<RunReporter> reporter_;
  std::optional<RunFiles> files_;
  std::optional<RunStop> stop_;
  std::optional<TrainingLoop> loop_;
};

}  // namespace lockstep
