#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/files/safetensors.h"
#include "trainer/checkpoint/run_state.h"
#include "trainer/checkpoint/tensor_parts.h"

namespace lockstep {

/// A checkpoint directory by name.
struct CheckpointRef {
  std::string path;
  int generation = 0;
  std::int64_t step = 0;
};

/// A checkpoint whose files have passed their checksums.
struct Checkpoint {
  std::string path;
  RunState state;
  int version = 0;                       ///< of the format
  TensorParts model;                     ///< parameters and running statistics
  std::optional<TensorParts> optimizer;  ///< "optimizer.<state>.<parameter>"; none in a best-… directory
};

/// An intact checkpoint of a newer Lockstep.
class CheckpointVersionError : public InputError {
 public:
  using InputError::InputError;
};

/// Reads a checkpoint directory and checks every file against the manifest. Throws InputError with the file
/// and what is wrong with it; CheckpointVersionError with the number of a format version from the future.
Checkpoint load_checkpoint(const std::string& directory);

struct ManifestFile;

/// Room that a save wants besides its tensors: the manifest's numbers, directories, rounding to blocks.
inline constexpr std::uint64_t checkpoint_slack_bytes = 64 * 1024;

/// Of a file by which the ranks of a starting job find out who sees the directory of its generation.
inline constexpr const char* checkpoint_probe_prefix = ".probe-";

/// What a directory below a generation is: "step-…" or "best-…".
enum class CheckpointKind { checkpoint, best };

/// A checkpoint that is being written, under a name that nobody reads.
struct PendingCheckpoint {
  std::string directory;  ///< where the parts go
  int generation = 0;
  std::string name;  ///< that it gets
  std::string path;  ///< that it gets
};

/// The checkpoints of one run directory:
///
///   checkpoints/gen-000001/step-000000840/{manifest.json, model.safetensors, optimizer.safetensors}
///   checkpoints/gen-000001/best-000000800/{manifest.json, model.safetensors}
///
/// Where several ranks have written, a checkpoint holds model-00001-of-00002.safetensors and so on instead:
/// whole tensors, each in one of the files, so that it is read by any number of ranks.
///
/// A checkpoint is whole or absent: it is written under another name, every file and then the directory is
/// synchronised to disk, and the last act is a rename. A job start claims the next generation by creating its
/// directory exclusively and writes only there; readers take the highest (generation, step) that is whole;
/// nobody deletes from a higher generation. So a job that was cut off cannot displace the checkpoints of the
/// one that took over.
///
/// Every method is called by one rank. Failures of the file system throw InputError with path and cause.
class CheckpointStore {
 public:
  /// Touches nothing yet.
  explicit CheckpointStore(std::string run_directory);

  /// Creates checkpoints/gen-… after the highest there is and returns its number, from 1. Two jobs at once
  /// get two.
  int claim_generation();
  /// The path of the newest checkpoint, whole or not; empty where there is none.
  std::string newest_name() const;
  /// The highest generation, where it is higher than `generation`: another job has taken the run over.
  std::optional<int> superseded_by(int generation) const;

  /// The first half of a save: makes sure of `bytes` of free space for all parts (throws before anything is
  /// written), clears away what an earlier attempt at the same name left, and creates a new directory, of a
  /// name never used before, for the parts.
  PendingCheckpoint begin(int generation, CheckpointKind kind, std::int64_t step, std::uint64_t bytes);
  /// The second half, once every part lies in pending.directory and is on disk: looks whether they are there,
  /// writes the manifest,
  /// synchronises the directory and renames it, replacing one of that name. `files` as in CheckpointManifest.
  /// Returns its path. When it throws, what was pending is removed.
  std::string commit(const PendingCheckpoint& pending, RunState state, std::vector<ManifestFile> files);
  /// Removes what is pending. Never throws: what stays is removed by prune().
  static void abandon(const PendingCheckpoint& pending) noexcept;

  /// begin(), one part for each kind of tensors, commit(). Tensors are F32 in plain layout. Saving a step
  /// again replaces it atomically. Returns the checkpoint's path.
  std::string save(int generation, RunState state, const std::vector<TensorView>& model,
                   const std::vector<TensorView>& optimizer);
  /// The weights of the best validation so far (state.step), without optimizer state, beside the checkpoints.
  std::string save_best(int generation, RunState state, const std::vector<TensorView>& model);

  /// Keeps the newest `keep` >= 1 whole checkpoints of `generation` and lower ones, and of the best weights
  /// those that a kept checkpoint refers to (where there are none, the best before them) or that are newer
  /// than it. Removes the others and what broken-off saves have left. Looks at manifests and sizes; that a
  /// file's bytes are wrong it knows where load_newest() or find_newest() has found it.
  void prune(int generation, std::int64_t keep);

  /// All checkpoint directories, highest (generation, step) first, whole or not.
  std::vector<CheckpointRef> list() const;
  /// All best-… directories, in the same order.
  std::vector<CheckpointRef> list_best() const;

  /// The highest (generation, step) that is whole. Each one passed over adds a sentence with its path and the
  /// reason. Throws CheckpointVersionError for an intact checkpoint of a newer Lockstep that is higher than
  /// any whole one.
  std::optional<CheckpointRef> find_newest(std::vector<std::string>& passed_over);
  /// The same, read, with every checksum computed once.
  std::optional<Checkpoint> load_newest(std::vector<std::string>& passed_over);
  /// The whole best-… directory of `step`; where none is whole, of the highest step below, which are the best
  /// weights of which a copy is left. Of several the highest generation. Each one passed over adds a
  /// sentence. Without `hash` sizes are looked at and bytes are not. Throws as find_newest().
  std::optional<CheckpointRef> find_best(std::int64_t step, std::vector<std::string>& passed_over,
                                         bool hash = true) const;

  /// "<run directory>/checkpoints/gen-000001"
  std::string generation_directory(int generation) const;
  /// "<run directory>/checkpoints"
  const std::string& directory() const { return directory_; }

 private:
  int highest_generation() const;
  std::optional<Checkpoint> load_first_whole(std::vector<std::string>& passed_over, CheckpointRef& ref);
  std::vector<CheckpointRef> list_kind(const char* prefix) const;
  std::string write(int generation, CheckpointKind kind, RunState state, const std::vector<TensorView>& model,
                    const std::vector<TensorView>* optimizer);
  std::string directory_;
  int attempts_ = 0;
  std::set<std::string> damaged_;  // paths that were passed over
};

}  // namespace lockstep
