#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "device/lane_pool.h"
#include "device/memory.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/step/train_step.h"

namespace lockstep {

/// A copy of model and optimizer state, cut into parts for the ranks that write them: whole tensors, dealt
/// out by size, so that every writer has about the same to write. Tensors are copied as they are stored;
/// write_part() brings them into plain form. Rank 0 is always a writer.
class StateSnapshot {
 public:
  /// (all) `writers`: the ranks that write, ascending, equal on all ranks, at least one. References must
  /// outlive this object.
  StateSnapshot(Communicator& comm, const TrainStep& step, LanePool& lanes, const std::vector<int>& writers);
  ~StateSnapshot();

  /// (all) Copies what this rank writes, pieces of a sharded optimizer state from the ranks that hold them.
  /// Without `optimizer` the model alone, from `parameters` where these are given: a copy of the step's from
  /// before. Between steps, when nobody reads the last copy. Allocates nothing.
  void take(bool optimizer, std::span<const float> parameters = {});

  /// The file of `kind` that rank `writer` writes, without bytes and checksum; no name where it writes none.
  ManifestFile part(PartKind kind, int writer) const;
  /// Bytes of all parts of all ranks.
  std::uint64_t total_bytes(bool optimizer) const;
  /// Writes the part of this rank, from the last copy, below `directory`, to disk. On any one thread; must
  /// not run beside take(). Fills in bytes and checksum. Throws InputError, also once `cancelled` is set.
  ManifestFile write_part(PartKind kind, const std::string& directory,
                          const std::atomic<bool>& cancelled) const;

 private:
  static constexpr int model_slot = -1;
  /// A tensor to be saved.
  struct Item {
    const FlatSegment* segment;
    int slot;  ///< of the optimizer state, or model_slot
    std::string name;
    int writer;
    std::int64_t at = 0;  ///< in the writer's memory, elements
    PartKind kind() const { return slot == model_slot ? PartKind::model : PartKind::optimizer; }
  };
  /// A run of elements of an optimizer state, and its place in the memory of the one who writes it.
  struct Piece {
    int slot;
    Range range;
    std::int64_t at;
  };
  struct Peer;

  void deal_out(const std::vector<int>& writers);
  void plan_exchange();
  void take_memory();
  std::vector<TensorEntry> entries(PartKind kind, int writer) const;

  Communicator& comm_;
  const TrainStep& step_;
  LanePool& lanes_;
  std::vector<Item> items_;  // equal on all ranks
  std::int64_t elements_ = 0;
  std::vector<Piece> own_;  // pieces of this rank's shard that it writes itself
  std::vector<std::unique_ptr<Peer>> peers_;
  HostBuffer memory_;
};

}  // namespace lockstep
