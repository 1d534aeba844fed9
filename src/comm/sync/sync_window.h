#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

#include "comm/communicator.h"

namespace lockstep {

/// A counter that one rank writes and the ranks of its group read: alone on its cache line. Values only grow.
struct alignas(64) SharedCounter {
  std::atomic<std::uint64_t> value{0};
  void publish(std::uint64_t v) { value.store(v, std::memory_order_release); }
  bool reached(std::uint64_t v) const { return value.load(std::memory_order_acquire) >= v; }
};
// Counters are shared between processes, where a lock inside an atomic would not work.
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

/// What each rank of a group shows to the others for the gradient exchange, laid out in one shared region:
/// counters, gradient slots, parameters, marks of blocks.
class SyncWindow {
 public:
  struct Sizes {
    std::int64_t elements = 0;
    std::int64_t slots = 1;  ///< of the rank that has most
    std::int64_t buckets = 0;
    std::int64_t blocks = 0;
    std::size_t bytes() const;
  };

  /// Counters of one rank. Steps and publications are counted from 1.
  struct Counters {
    SharedCounter entered;   ///< the step that this rank has entered
    SharedCounter finished;  ///< the last step whose exchange is complete on this rank
    SharedCounter updated;   ///< the last publication of parameters of its shard
    SharedCounter gathered;  ///< the last publication of which it has fetched everything
  };

  /// (all) Collective over the communicator.
  SyncWindow(Communicator& comm, const Sizes& sizes);

  // `rank` is a rank of this group.
  Counters& counters(int rank) const;
  /// The last step in which this rank's bucket was complete in all its slots.
  SharedCounter& ready(int rank, std::int64_t bucket) const;
  /// The last publication of which all parameters that this rank carries in the bucket have arrived.
  SharedCounter& arrived(int rank, std::int64_t bucket) const;
  float* slot(int rank, std::int64_t i) const;
  float* parameters(int rank) const;
  double* marks(int rank) const;

 private:
  Sizes sizes_;
  std::unique_ptr<SharedRegion> region_;
};

}  // namespace lockstep
