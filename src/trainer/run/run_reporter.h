#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "comm/world.h"
#include "trainer/guard/guard.h"
#include "trainer/guard/loss_log.h"
#include "trainer/guard/straggler.h"
#include "trainer/run/epoch_line.h"
#include "trainer/run/job.h"
#include "trainer/run/metrics.h"
#include "trainer/run/progress.h"
#include "trainer/run/run_parts.h"
#include "trainer/step/step_times.h"
#include "trainer/step/train_step.h"

namespace lockstep {

/// What a training run tells while it trains: lines of results, of the log and of metrics.jsonl, and the bar.
/// Every rank has one, and rank 0 speaks; only tell_times() says something on the others. It decides nothing
/// and changes nothing of the run.
class RunReporter {
 public:
  /// References must outlive this object; `course` and the schedule in `setup` may change.
  RunReporter(const Job& job, const RunSetup& setup, const RunDirectory& directory, const RunCourse& course,
              bool classes);

  /// (all) The log file of each rank, where log.per_rank asks for them, and the watch over slow ranks.
  void open_rank_log(const World& world, int generation);
  /// Rank 0, before anything is told of a step. What is lost of it is told by on_lost_metrics().
  void open_metrics(MetricsFile file);
  MetricsFile::OnLoss on_lost_metrics() const;
  /// Makes the bar, and the stream that lines of results go to.
  void begin();
  /// The steps between these two are drawn.
  void begin_steps();
  void end();
  /// After a step.
  void step_done();
  /// Of an evaluation.
  void evaluated(std::int64_t done, std::int64_t all);
  /// A line of results.
  void print(const std::string& line);

  /// The losses of a step that was taken with `outcome`, as far as log.every_steps asks for them.
  void tell_step(const StepSums& sums, double loss, const StepOutcome& outcome);
  /// The ranks' times since the last line of metrics, and of a rank that is slow. By rank. True where the
  /// window that they are taken from is to begin anew.
  bool tell_times(std::span<const RankTimes> all);
  /// A line of metrics about an epoch or an end, and the line of results.
  void tell_epoch(const MetricsRecord& record, const EpochLine& line);
  void tell_test(const MetricsRecord& record);
  /// Where a change of the schedule begins to hold with the next step.
  void tell_change();
  /// What changed in the data with the checkpoint that the run goes on from.
  void tell_data_change(const std::string& what);
  void tell_skipped(const Guard& guard);
  void tell_rollback(std::int64_t from);
  void tell_repaired(const std::string& what);
  /// A last line that tells of the end of a run that has diverged.
  void note_divergence() noexcept;

 private:
  ProgressState state() const;

  const Job& job_;
  const RunSetup& setup_;
  const RunDirectory& directory_;
  const RunCourse& course_;
  bool classes_;
  std::optional<MetricsFile> metrics_;          // rank 0
  std::unique_ptr<Progress> progress_;          // likewise
  std::unique_ptr<StragglerWatch> stragglers_;  // likewise
};

}  // namespace lockstep
