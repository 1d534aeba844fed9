#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "core/range.h"

namespace lockstep {

/// Brings together one number per block of the flat gradient (core/numerics/tree.h), of which every rank has
/// found those of its own shard. Allocates in the constructor only.
class BlockGather {
 public:
  /// (all) `shard`: this rank's ranges, which begin on block edges. The shards of all ranks cover every block
  /// once.
  BlockGather(Communicator& comm, std::span<const Range> shard);
  /// (all) The same of any values, of which this rank finds those with the numbers `own`.
  BlockGather(Communicator& comm, const std::vector<std::int64_t>& own);

  /// (all) values[b] is block b's; afterwards every rank has all. One thread.
  void run(std::span<double> values);

 private:
  Communicator& comm_;
  std::vector<std::vector<std::int64_t>> blocks_;  // of every rank's shard
  // Every rank sends as many numbers as the longest shard has.
  std::vector<double> mine_;
  std::vector<double> all_;
};

}  // namespace lockstep
