#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/step_control.h"
#include "trainer/checkpoint.h"
#include "trainer/data/epoch_order.h"
#include "trainer/data/loader.h"
#include "trainer/data/open.h"
#include "trainer/evaluation.h"
#include "trainer/job.h"
#include "trainer/loss_log.h"
#include "trainer/metrics.h"
#include "trainer/plan_choice.h"
#include "trainer/progress.h"
#include "trainer/run_checkpoints.h"
#include "trainer/run_directory.h"
#include "trainer/safeguards.h"
#include "trainer/step_times.h"
#include "trainer/straggler.h"
#include "trainer/train_step.h"

namespace lockstep {

/// One training run on this rank: from a resolved config to the files of the run directory.
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
  void open_run_directory();
  void open_rank_log(const World& world);
  void resume();
  /// (all) Goes back to the newest whole checkpoint, model, optimizer and counters; false when there is none.
  bool restore_newest();
  /// Throws, alike on every rank, when a checkpoint was not saved by a run of this config on this data.
  void check_is_of_this_run(const TrainingState& state) const;
  /// (all) Brings config, metrics and weight files to the step that was restored.
  void continue_files();
  void start();
  void train_epochs();
  /// For the batches from position_ on.
  LoaderOptions loader_options() const;
  /// Trains until the run is finished or has been rolled back.
  void train_from_here();
  /// (all) The options of the step, with what asks the safeguards and the hooks of tests.
  TrainStepOptions guarded_options(TrainStepOptions options);
  /// (all) The next step, unless its batch is to be left out. A step that was not applied is dealt with here;
  /// nothing when that meant to go back to an earlier step: then the batches that were loaded are void.
  std::optional<StepOutcome> guarded_step(const LoadedBatch& batch, double lr,
                                          std::span<SliceResult> results);
  /// (all) Asks for the outcomes of the steps that were left to the device, and records them. Throws
  /// DivergenceError for one that was not applied.
  void settle_steps();
  /// (all) Throws DivergenceError that tells where a step that was not applied came from, with everything as
  /// it was before it.
  [[noreturn]] void stop_at(const SettledStep& settled, const BatchRange& range);
  /// (all) Goes back to the newest whole checkpoint, or to the beginning where there is none.
  void roll_back();
  /// (all) The same without a checkpoint: from the initial weights.
  void start_over();
  void check_replicas();
  /// Exchanges the losses of the steps since the last call, tells metrics, and throws DivergenceError on a
  /// loss that is not finite.
  void flush_losses();
  /// Of a step that was made; `load` in seconds. `behind`: while it was loaded, the device had the step
  /// before to compute, and what it waited for the load is in the step's time already.
  void add_times(StepTimes times, double load, bool behind = false);
  /// Tells the ranks' times since the last line of metrics, and of a rank that is slow. After a flush.
  void report_times();
  void end_epoch(std::int64_t epoch);
  /// (all) Throws DivergenceError where a parameter is not finite: such are never saved.
  void check_parameters();
  /// (all) RunCheckpoints::save() of this step.
  bool save_checkpoint(bool wait = false);
  void save_best(double metric);
  void write_model(const std::string& path);
  /// (all) best.safetensors, from the checkpoint of the best step.
  void write_best();
  void report_test();
  TrainingState state() const;
  bool finished() const;
  MetricsFile::OnLoss on_lost_metrics() const;
  /// For files that generations do not keep apart: asked before they get their name, on rank 0, so that a job
  /// that was cut off replaces none of its successor's.
  std::function<void()> while_mine() const;
  /// (all) Whether any rank was asked to stop before the first step.
  bool stop_at_once();
  /// (all) After the checkpoint: says how to go on. Returns the exit code; throws when there is no
  /// checkpoint.
  int leave_preempted();

  Config config_;
  Job& job_;
  DataSets data_;
  std::optional<Graph> graph_;
  Timeline timeline_;
  Lanes lanes_;
  ComputeDevice device_;                  // ends after all that is compiled for it
  std::unique_ptr<Communicator> shared_;  // what the step and the evaluation use
  std::unique_ptr<TrainStep> step_;
  std::unique_ptr<StepControl> control_;
  std::unique_ptr<Evaluator> evaluator_;
  std::unique_ptr<EpochOrder> order_;
  std::unique_ptr<LossLog> losses_;
  std::unique_ptr<Safeguards> safeguards_;
  PlanChoices stored_plans_;  // of the checkpoint that a resume goes on from
  std::string fingerprint_;
  RunDirectory directory_;
  std::string preprocessing_sha256_;             // of preprocessing.json
  std::unique_ptr<RunCheckpoints> checkpoints_;  // none with --dry-run
  std::unique_ptr<MetricsFile> metrics_;         // rank 0
  std::unique_ptr<Progress> progress_;           // rank 0

  std::int64_t steps_ = 0;      // done
  std::int64_t position_ = 0;   // samples consumed
  std::int64_t end_steps_ = 0;  // where the run ends
  std::optional<double> best_metric_;
  std::int64_t best_step_ = -1;
  bool any_fast_ = false;
  StepSums epoch_sums_;
  double last_loss_ = 0;
  std::vector<StepOutcome> outcomes_;  // of the steps since the last flush
  struct Enqueued {
    BatchRange range;
    double load = 0;     // seconds
    bool timed = false;  // its times count
  };
  std::vector<Enqueued> enqueued_;  // whose outcome was not asked for yet
  std::int64_t samples_here_ = 0;   // since this process began
  bool preempted_ = false;          // asked to stop, and stopped before the end
  StepTimesLog times_;
  std::unique_ptr<StragglerWatch> stragglers_;  // rank 0
};

}  // namespace lockstep
