#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "device/lane_pool.h"
#include "trainer/step/train_step.h"

namespace lockstep {

/// Which ranks of a vote stand alone.
struct Dissent {
  std::vector<int> ranks;  ///< that differ from the majority; without a majority: all
  int majority = -1;       ///< the lowest rank of the majority; -1: there is none
  bool any() const { return !ranks.empty(); }
};
/// A majority is more than half of all, and of three at least: of two ranks that differ nobody knows which is
/// right.
Dissent dissent_of(std::span<const std::uint64_t> votes);

/// Holds the parameters and running statistics of all ranks against each other, and the optimizer state too
/// where every rank has all of it (optimizer.sharded = false). One 64-bit hash per block of 4,096 elements,
/// combined into one number per rank that is gathered. A check that finds nothing allocates nothing.
class ReplicaCheck {
 public:
  /// `hosts`: of every rank, for messages. `repair`: copy from the majority instead of ending the run.
  ReplicaCheck(TrainStep& step, bool sharded, bool repair, std::vector<std::string> hosts, Communicator& comm,
               LanePool& lanes);

  /// (all) Between two steps; `steps`: done so far. Nothing differs: an empty text. Repaired: one sentence,
  /// equal on every rank, that says who and where; the bytes are then those of the majority on every rank.
  /// Otherwise throws CommError (exit 4), alike on every rank, with rank, host, parameter and index.
  std::string run(std::int64_t steps);

 private:
  struct Buffer {
    std::string prefix;  ///< of names: "" or "optimizer.exp_avg."
    std::span<float> flat;
    Range range;  ///< of the flat layout
  };
  std::uint64_t hash_mine();
  void gather_votes();
  std::string describe(const Dissent& dissent);
  void copy_from(int rank);

  TrainStep& step_;
  bool repair_;
  std::vector<std::string> hosts_;
  Communicator& comm_;
  LanePool& lanes_;
  std::vector<Buffer> buffers_;
  std::vector<std::uint64_t> hashes_;  // per block, of all buffers
  std::vector<std::uint64_t> votes_;   // per rank
};

/// "rank 2 (node3)", "ranks 0 (a) and 1 (b)"
std::string ranks_text(std::span<const int> ranks, std::span<const std::string> hosts);

}  // namespace lockstep
