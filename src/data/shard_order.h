#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/numerics/permutation.h"

namespace lockstep {

/// How the samples of a set of files are put in order. Part of what decides bits.
struct ShardWindows {
  std::vector<std::int64_t>
      sizes;                ///< samples of each file, at least 1; the set has them one after the other
  std::int64_t window = 1;  ///< files among which samples are mixed, at least 1
};

/// The order of one epoch: the files in the order of a keyed permutation, so many of them at a time a window,
/// and the samples of a window in the order of a keyed permutation of their own. So a reader needs the files
/// of one window at a time, and of two where a batch crosses a border. Memory grows with the number of files
/// alone.
class ShardedEpoch {
 public:
  /// A function of its arguments. Keys: (seed, Purpose::shuffle, epoch, 1) for the files, 2 + w for window w.
  ShardedEpoch(const ShardWindows& shards, std::uint64_t seed, std::int64_t epoch);

  /// The sample, an index in the set, at a position in [0, samples) of the epoch. Allocates nothing.
  std::int64_t sample(std::int64_t position) const noexcept;

 private:
  struct Window {
    std::int64_t begin = 0;  // position of its first sample
    std::size_t first = 0;   // place of its first file in files_
    Permutation order;       // of its samples
  };
  struct File {
    std::int64_t begin = 0;   // position of its first sample, were the windows not mixed
    std::int64_t sample = 0;  // that sample
  };
  std::vector<Window> windows_;
  std::vector<File> files_;
};

}  // namespace lockstep
