#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "device/lane_pool.h"
#include "trainer/checkpoint/background_thread.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/state_snapshot.h"
#include "trainer/step/train_step.h"

namespace lockstep {

/// One save behind the training: a thread of every rank writes its part, the ranks report to rank 0, and a
/// thread of rank 0 commits. The main threads alone send messages, in poll(), so that no step waits.
class CheckpointWriter {
 public:
  /// How a save ended; known to rank 0.
  struct Outcome {
    CheckpointKind kind = CheckpointKind::checkpoint;
    std::int64_t step = 0;
    std::string failure;  ///< empty: committed. Else who failed, and why
    std::string remark;   ///< of a committed one: what went wrong besides, e.g. in removing older ones
  };

  /// (all) `writers`: the ranks that write, ascending, equal on all ranks. `store` is used by rank 0; it
  /// keeps the newest `keep` checkpoints. References must outlive this object.
  CheckpointWriter(Communicator& comm, CheckpointStore& store, const TrainStep& step, LanePool& lanes,
                   const std::vector<int>& writers, std::vector<int> cpus, std::int64_t keep);
  /// Breaks a save off that is under way: what was written stays under a name that nobody reads.
  ~CheckpointWriter();

  /// Bytes of all parts of a save.
  std::uint64_t bytes(CheckpointKind kind) const {
    return kind == CheckpointKind::checkpoint ? checkpoint_bytes_ : best_bytes_;
  }
  /// (all) When idle: copies what is to be saved and lets the threads begin. `pending.directory` must be
  /// known to every rank, the rest of it and `state` to rank 0 alone. `weights`: of the best, where they are
  /// no longer the step's; empty: they are. `best`: where a checkpoint's weights are the best so far, a
  /// second directory that these are written to from the same copy, and that is committed first.
  void start(CheckpointKind kind, const PendingCheckpoint& pending, const RunState& state,
             std::span<const float> weights = {}, const std::optional<PendingCheckpoint>& best = {});
  /// Moves the save along; never blocks.
  void poll();
  /// Nothing of the last save is left to do for this rank. On rank 0: it has ended on all.
  bool idle() const { return stage_ == Stage::idle; }
  /// This rank itself is still writing; else, unless idle, others are waited for.
  bool working() const {
    return (stage_ == Stage::writing || stage_ == Stage::committing) && !thread_.idle();
  }
  /// On rank 0, once for every save that has ended.
  std::optional<Outcome> take_outcome();

 private:
  enum class Stage { idle, writing, reporting, committing };
  /// What a rank tells of its part; as bytes.
  struct Report {
    struct File {
      std::uint64_t bytes;
      std::array<char, 64> sha256;
    };
    std::array<File, 3> files;  // by PartKind, then those of the best weights
    std::array<char, 768> failure;
  };
  struct Source;

  void write_parts(CheckpointKind kind, const std::string& directory, const std::string& best);
  void tell(const ManifestFile& file, std::size_t place);
  void report(const std::string& failure);
  /// What kept the thread from starting; else empty.
  std::string start_thread(std::function<void()> job);
  void collect();
  std::string failures() const;
  /// Of what is committed as `kind`; the best weights beside a checkpoint are `kind` best.
  std::vector<ManifestFile> files(CheckpointKind kind) const;
  void abandon() noexcept;

  Communicator& comm_;
  CheckpointStore& store_;
  std::string who_;
  std::int64_t keep_;
  StateSnapshot snapshot_;
  std::uint64_t checkpoint_bytes_ = 0;
  std::uint64_t best_bytes_ = 0;
  Stage stage_ = Stage::idle;
  CheckpointKind kind_ = CheckpointKind::checkpoint;
  PendingCheckpoint pending_;
  std::optional<PendingCheckpoint> best_;  // beside a checkpoint
  RunState state_;
  std::string remark_;
  std::string give_up_;
  std::optional<Outcome> outcome_;
  Report mine_{};
  std::unique_ptr<PersistentRequest> send_;       // to rank 0
  std::vector<std::unique_ptr<Source>> sources_;  // on rank 0: the other writers
  std::atomic<bool> cancelled_{false};
  BackgroundThread thread_;  // last: it uses the others
};

}  // namespace lockstep
