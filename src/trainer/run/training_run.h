#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/sync/step_control.h"
#include "data/epoch_order.h"
#include "data/loader.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/run_checkpoints.h"
#include "trainer/checkpoint/run_directory.h"
#include "trainer/config/schedule_changes.h"
#include "trainer/data/open.h"
#include "trainer/evaluate/best.h"
#include "trainer/evaluate/evaluation.h"
#include "trainer/guard/loss_log.h"
#include "trainer/guard/safeguards.h"
#include "trainer/guard/straggler.h"
#include "trainer/run/epoch_line.h"
#include "trainer/run/job.h"
#include "trainer/run/lease.h"
#include "trainer/run/metrics.h"
#include "trainer/run/plan_choice.h"
#include "trainer/run/progress.h"
#include "trainer/step/step_times.h"
#include "trainer/step/train_step.h"

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
  /// (all) Opens the data and compares them among the ranks. `stored`: the description that a resume keeps.
  void open_data(const DataInfo* stored);
  /// The model for these data. Throws ConfigError; where it has too few outputs, with the odd labels.
  Graph graph_for_data() const;
  /// (all) Whether a resume goes on with the slices that the run has had.
  bool keeps_slices();
  /// (all) What data.json of the run directory holds; empty where there is none.
  std::string share_data_record();
  /// Throws, alike on every rank, when the data are not those that a checkpoint was trained on, unless
  /// --allow-data-change; then the change becomes part of the record.
  void check_data(const RunState& state);
  /// On rank 0.
  void write_data_record();
  void open_run_directory();
  void open_rank_log(const World& world);
  void resume();
  /// (all) Goes back to the newest whole checkpoint, model, optimizer and counters; false when there is none.
  bool restore_newest();
  /// Throws, alike on every rank, when a checkpoint was not saved by a run of this config on this data.
  void check_is_of_this_run(const RunState& state) const;
  /// The horizon, where it was left to the run.
  void resolve_horizon();
  /// (all) After a resume: adds what its flags ask of the learning rate to schedule.changes, from this step
  /// on. Gives what of the schedule has no effect from here on. Throws ConfigError, alike on every rank,
  /// where the change has none, or where nothing would be trained with a rate above 0.
  std::vector<std::string> change_schedule();
  /// The line of metrics and of the log where a change of the schedule begins to hold with the next step.
  void tell_change();
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
  [[noreturn]] void stop_at(const SettledStep& settled);
  /// What is doubtful about the values of the data, and that targets are scaled. Rank 0.
  void tell_of_data() const;
  /// A last line of metrics.jsonl that tells of the end of a run that has diverged. Rank 0.
  void note_divergence() noexcept;
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
  /// (all) The validation of an epoch, or of a training that ends within one, and the line that tells of it.
  void end_epoch(std::int64_t epoch);
  void end_within_epoch();
  /// (all) Validates, where there is something to validate on, and keeps the weights where they are the best.
  void validate(MetricsRecord& record, EpochLine& line);
  /// What the training of this epoch has summed up so far.
  void add_epoch_sums(MetricsRecord& record, EpochLine& line) const;
  /// A line of results, on standard output.
  void print(const std::string& line);
  ProgressState progress_state() const;
  /// (all) Throws DivergenceError where a parameter is not finite: such are never saved.
  void check_parameters();
  /// (all) RunCheckpoints::save() of this step.
  bool save_checkpoint(bool wait = false);
  /// (all) After a step: saves what is due. `due`: a checkpoint; `must`: it has to be whole before anything
  /// else happens. Checkpoints at the end of epochs make nothing wait: while one is being written, the next
  /// is left out, and the best weights are held until there is room for them.
  void save_due(bool due, bool must);
  /// (all) The best weights that were found since the last save, or are held.
  void save_best();
  void hold_best();
  void write_model(const std::string& path);
  /// (all) best.safetensors, from the checkpoint of the best step.
  void write_best();
  /// (all) Throws DivergenceError where every batch was left out.
  void refuse_untrained();
  /// (all) Returns the exit code: that of a divergence where the model gives no finite scores.
  int report_test();
  /// test.json: all that the text of the test leaves out. Rank 0. A full disk is a warning.
  void write_test_report(const Evaluation& result);
  RunState state() const;
  /// Of the next batch.
  DataPosition position() const;
  bool finished() const;
  MetricsFile::OnLoss on_lost_metrics() const;
  /// For files that generations do not keep apart: asked before they get their name, on rank 0, so that a job
  /// that was cut off replaces none of its successor's.
  std::function<void()> while_mine() const;
  // Words of StepControl: this rank was asked to save and leave; by Ctrl-C.
  static constexpr std::uint64_t stop_asked = 1;
  static constexpr std::uint64_t stop_interrupted = 2;
  static std::uint64_t stop_word();
  /// (all) Whether any rank was asked to stop before the first step.
  bool stop_at_once();
  /// What a user types to go on with this run.
  std::string resume_command() const;
  /// Tells the watchdog what to say should mpirun be interrupted. Cheap where no checkpoint is new.
  void tell_way_on();
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
  std::unique_ptr<Lease> lease_;                 // rank 0; none with --dry-run. Ends after all that is saved
  std::string preprocessing_sha256_;             // of preprocessing.json
  DataRecord data_record_;                       // of the data as they are, and of the changes before
  std::string stored_data_record_;               // data.json as a resume has found it
  std::string changed_data_;                     // what changed with the checkpoint that was restored
  std::unique_ptr<RunCheckpoints> checkpoints_;  // none with --dry-run
  std::unique_ptr<MetricsFile> metrics_;         // rank 0
  std::unique_ptr<Progress> progress_;           // rank 0

  std::int64_t steps_ = 0;        // done
  std::int64_t end_steps_ = 0;    // where the run ends
  std::int64_t natural_end_ = 0;  // where its epochs end, or without epochs train.steps
  std::optional<RunSchedule> schedule_;
  std::string stored_changes_;  // schedule.changes as this process found it
  BestValidation best_;
  bool new_best_ = false;  // this step's weights are, and are not saved yet
  struct HeldBest {
    RunState state;
    std::vector<float> weights;
  };
  std::optional<HeldBest> held_best_;  // of an earlier step, not saved yet
  bool any_fast_ = false;
  EpochSums epoch_sums_;
  double last_loss_ = 0;
  std::vector<StepOutcome> outcomes_;  // of the steps since the last flush
  struct Enqueued {
    double load = 0;     // seconds
    bool timed = false;  // its times count
  };
  std::vector<Enqueued> enqueued_;  // whose outcome was not asked for yet
  std::int64_t samples_here_ = 0;   // since this process began
  std::uint64_t stopped_by_ = 0;    // the word by which it was asked to stop, and did before the end
  std::int64_t told_step_ = -2;     // of tell_way_on(); -2: nothing yet
  StepTimesLog times_;
  std::unique_ptr<StragglerWatch> stragglers_;  // rank 0
};

}  // namespace lockstep
