#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "comm/communicator.h"
#include "comm/mpi/request_chain.h"
#include "comm/sync/bucket_plan.h"
#include "comm/sync/sync_window.h"

namespace lockstep {

/// Brings the shards of the parameters that other ranks have updated into this rank's copy: within the group
/// by copying from the owners' windows, between groups by one message per chunk and group to the chunk's
/// carrier, from whose window the rest of its group copies.
class ParameterExchange {
 public:
  ParameterExchange(Communicator& comm, const BucketPlan& plan, SyncWindow& window, bool sharded);

  /// (all) One thread. This rank's shard is final.
  void publish();
  /// Every lane of the rank; lane 0 drives the messages.
  void gather(int lane, int lanes);
  /// True when every rank of the group has fetched everything that was published.
  bool gathered_by_group() const;

  std::int64_t sent_bytes() const { return sent_bytes_; }
  std::int64_t window_bytes() const { return window_bytes_; }

 private:
  /// Elements that lane shares are cut from: a chunk that a peer of the group holds.
  struct Fetch {
    Range range;
    std::int64_t bucket;
    int holder;
    bool carried;  ///< it comes to the holder by message
  };
  void drive();
  void fetch(const Fetch& f, Range part, bool driver);
  template <class Condition>
  void wait_until(Condition&& arrived, bool driver);

  Communicator& comm_;
  SyncWindow& window_;
  bool sharded_;
  std::vector<Fetch> fetches_;
  std::vector<std::int64_t> blocks_before_;  ///< blocks in the fetches before each one, and in all
  RequestChain outgoing_;
  RequestChain incoming_;
  std::vector<std::size_t> incoming_end_;  ///< number of messages up to and including each bucket
  std::int64_t next_arrival_ = 0;          ///< the first bucket not yet announced to the group
  std::uint64_t publication_ = 0;          ///< publish() calls so far
  std::atomic<int> lanes_done_{0};
  std::atomic<bool> failed_{false};
  std::int64_t sent_bytes_ = 0;
  std::int64_t window_bytes_ = 0;
};

}  // namespace lockstep
