#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/log.h"
#include "device/lane_pool.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/checkpoint_writer.h"
#include "trainer/step/train_step.h"

namespace lockstep {

struct RunCheckpointsOptions {
  bool async = true;      ///< checkpoint.async
  std::int64_t keep = 2;  ///< checkpoint.keep
  std::vector<int> cpus;  ///< that the background thread may run on; empty: those of the caller
};

/// What a checkpoint is held against before it is taken.
struct RestoreOptions {
  std::int64_t slices = 1;  ///< S of this job
  std::string fingerprint;  ///< of this machine and plan
  bool allow_numeric_change = false;
  bool allow_slices_change = false;
};

/// The checkpoints of a training run, as all its ranks see them: saving behind the training, and going back.
///
/// A save is: rank 0 looks whether a newer job has taken the run over, whether there is room, and makes the
/// directory; every rank copies what it will write to memory of its own (the step waits for this alone); a
/// thread of every rank writes and synchronises its files; the ranks tell rank 0 size and checksum by
/// messages, sent and received in poll(); a thread of rank 0 writes the manifest, renames the directory into
/// place and prunes. One save is in flight at most: the next one waits for it. A save that fails on any rank
/// is given up and reported once, by rank 0, with the rank, its host and the cause; what it left is removed,
/// older checkpoints stay, and the training goes on.
///
/// All methods are called by the main threads. Those marked (all) by all ranks in the same order.
class RunCheckpoints {
 public:
  /// References must outlive this object. Writes nothing.
  RunCheckpoints(Communicator& comm, const Log& log, TrainStep& step, LanePool& lanes,
                 const std::string& run_directory, RunCheckpointsOptions options);
  /// Ends the thread. A save that nobody waited for is left unfinished, which is as if it had never begun.
  ~RunCheckpoints();

  /// (all) Takes the run over: claims the next generation of its directory, and finds out which ranks see it:
  /// those write. The first save does so by itself. After restore(), so that whoever is refused there has not
  /// ended a job that may still be at it. True when there is another newest checkpoint than restore() saw:
  /// that job has saved meanwhile. Throws InputError, alike on every rank.
  bool claim();
  /// The one claimed; before that, on rank 0, the highest that restore() met. So a start that has nothing to
  /// save takes nothing over: a job that is at the run goes on, and one that begins later displaces this one.
  int generation() const { return generation_; }
  /// For rank 0.
  CheckpointStore& store() { return store_; }

  /// (all) Saves model, optimizer and `state`, which need only be right on rank 0 but for its step. Does
  /// nothing where state.step is already saved or being saved. With `wait` (or without options.async) it
  /// returns when the checkpoint is committed, after a second attempt where the first of this step had
  /// failed; true then means that it is whole on disk, alike on all ranks. Else true means that the save has
  /// begun. Throws InputError (SilentError on ranks but 0) when another job has taken over the run directory.
  bool save(const RunState& state, bool wait = false);
  /// (all) The same for the weights alone, as the best of the run so far. Never waits for itself, unless
  /// options.async is off.
  void save_best(const RunState& state);

  /// (all) Whether a save is in flight, alike on all ranks: what rank 0 knows. Waits for nothing but its
  /// word.
  bool busy();
  /// (all) Both at once, for a step whose weights are the best so far: one copy, and no wait between the two.
  bool save_with_best(const RunState& state);
  /// (all) save_best() of weights that are no longer the step's: `weights` is a copy of its parameters.
  void save_best_of(const RunState& state, std::span<const float> weights);

  /// At every step boundary: moves a save in flight along. Never waits; allocates nothing unless a save came
  /// a stage further. Costs one branch when there is none.
  void poll();
  /// (all) Returns when no save is in flight. True unless the last one failed; alike on all ranks.
  bool wait();
  /// (all) Throws as save() does when another job has taken over the run directory. Before something is
  /// written that is not kept apart by generations.
  void check_not_superseded();
  /// The same for rank 0 alone: to be asked between writing such a file and giving it its name.
  void require_mine() const;

  /// The newest step that this job knows to be whole on disk, -1 for none. Rank 0 knows first; equal on all
  /// ranks after wait().
  std::int64_t saved_step() const { return saved_step_; }

  /// (all) Waits for a save in flight, then brings parameters, statistics and optimizer to the newest whole
  /// checkpoint; says on rank 0 which it is, and names those that it passed over. Returns its state on every
  /// rank; nothing is changed where there is none, and nothing is returned. Throws InputError or ConfigError
  /// where it does not fit model, machine or slices, alike on every rank.
  std::optional<RunState> restore(const RestoreOptions& options);

 private:
  bool begin(CheckpointKind kind, const RunState& state, std::span<const float> weights = {},
             bool with_best = false);
  /// Until nothing of a save is left to do for this rank.
  void finish_own();
  void report_failure(CheckpointKind kind, std::int64_t step, const std::string& cause);
  std::string superseded_text() const;
  void check_fits(const Checkpoint& found, const RestoreOptions& options) const;

  Communicator& comm_;
  const Log& log_;
  TrainStep& step_;
  LanePool& lanes_;
  RunCheckpointsOptions options_;
  CheckpointStore store_;
  int generation_ = 0;
  std::string newest_seen_;  // by restore(), on rank 0
  std::unique_ptr<CheckpointWriter> writer_;
  std::int64_t attempted_step_ = -1;
  std::int64_t saved_step_ = -1;
  bool last_ok_ = true;
};

}  // namespace lockstep
