#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "comm/sync/step_control.h"
#include "data/loader.h"
#include "trainer/guard/loss_log.h"
#include "trainer/run/run_files.h"
#include "trainer/run/run_parts.h"
#include "trainer/run/run_reporter.h"
#include "trainer/run/run_saves.h"
#include "trainer/run/run_stop.h"
#include "trainer/step/step_times.h"

namespace lockstep {

/// The loop of a training run: batch after batch through the step, with what guards it, and at the end of an
/// epoch a validation and a save. Everything is by all ranks.
class TrainingLoop {
 public:
  /// `shared`: what the step uses. References must outlive this object.
  TrainingLoop(RunParts& parts, RunSaves& saves, RunFiles& files, RunStop& stop, RunReporter& reporter,
               Communicator& shared);

  /// Trains from where the run stands to its end, or until it is asked to stop: then parts.course.stopped_by
  /// says so. Throws DivergenceError, alike on every rank, where there is no way on.
  void run();
  /// Throws DivergenceError where the batch of every step was left out.
  void refuse_untrained();

 private:
  /// For the batches from where the run stands.
  LoaderOptions loader_options() const;
  /// Trains until the run is finished, is to stop or has been rolled back.
  void train_from_here();
  /// The next step, unless its batch is to be left out. A step that was not applied is dealt with here;
  /// nothing when that meant to go back to an earlier step: then the batches that were loaded are void.
  std::optional<StepOutcome> guarded_step(const LoadedBatch& batch, std::span<SliceResult> results);
  /// Asks for the outcomes of the steps that were left to the device, and records them. Throws
  /// DivergenceError for one that was not applied.
  void settle_steps();
  /// Throws DivergenceError that tells where a step that was not applied came from, with everything as it was
  /// before it.
  [[noreturn]] void stop_at(const SettledStep& settled);
  void roll_back();
  void check_replicas();
  /// The step of the last checkpoint, none being under way.
  std::int64_t last_checkpoint();
  /// Exchanges the losses of the steps since the last call, tells of them, and throws DivergenceError on a
  /// loss that is not finite.
  void flush_losses();
  /// Of a step that was made; `load` in seconds. `behind`: while it was loaded, the device had the step
  /// before to compute, and what it waited for the load is in the step's time already.
  void add_times(StepTimes times, double load, bool behind = false);
  /// The validation of an epoch, or of a training that ends within one, and the line that tells of it.
  void end_epoch(std::int64_t epoch);
  void end_within_epoch();
  /// Validates, where there is something to validate on, and keeps the weights where they are the best.
  void validate(MetricsRecord& record, EpochLine& line);
  /// What the training of this epoch has summed up so far.
  void add_epoch_sums(MetricsRecord& record, EpochLine& line) const;

  RunParts& run_;
  RunCourse& course_;
  RunSaves& saves_;
  RunFiles& files_;
  RunStop& stop_;
  RunReporter& reporter_;
  StepControl control_;
  LossLog losses_;
  StepTimesLog times_;
  std::vector<StepOutcome> outcomes_;  // of the steps since the last flush
  struct Enqueued {
    double load = 0;     // seconds
    bool timed = false;  // its times count
  };
  std::vector<Enqueued> enqueued_;  // whose outcome was not asked for yet
};

}  // namespace lockstep
