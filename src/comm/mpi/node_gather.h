#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "comm/communicator.h"

namespace lockstep {

/// All-gathers of few bytes among ranks that see each other's memory. Takes no memory after construction,
/// which a library's messages may at any time: one that comes before its receive was posted has to be kept
/// somewhere.
class NodeGather {
 public:
  /// The most bytes of a rank.
  static constexpr std::size_t capacity = std::size_t{1} << 15;
  /// What `region` below must hold for every rank.
  static constexpr std::size_t region_bytes = 2 * capacity + 4096;

  /// `region`: of a communicator whose `ranks` ranks are one group; zeroed. Owned.
  NodeGather(std::unique_ptr<SharedRegion> region, int rank, int ranks);

  /// (all) As Communicator::all_gather(), up to `capacity` bytes a rank. `poll` is called while it waits.
  void run(std::span<const std::byte> mine, std::span<std::byte> all, const std::function<void()>& poll);

 private:
  /// At the start of every rank's part: how many gathers it has entered. Two slots of `capacity` follow.
  struct Head {
    std::atomic<std::uint64_t> entered{0};
  };
  static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

  Head& head(int rank) const;
  std::byte* slot(int rank) const;

  std::unique_ptr<SharedRegion> region_;
  int rank_;
  int ranks_;
  std::uint64_t entered_ = 0;
};

}  // namespace lockstep
