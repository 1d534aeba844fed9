#pragma once

#include <cstdint>
#include <string>

#include "device/cuda/memory.h"

namespace lockstep::cuda {

/// What the device has told of the collectives on one stream, since the counters were made.
struct CollectiveProgress {
  std::uint64_t entered = 0;  ///< pieces of collective work that began on the device
  std::uint64_t left = 0;     ///< and that ended
  std::int64_t bucket = -1;   ///< of the last one entered
  bool inside() const { return entered > left; }
  friend bool operator==(const CollectiveProgress&, const CollectiveProgress&) = default;
  /// "inside collective 13 (bucket 2)" or "12 collectives done".
  std::string text() const;
};

/// Counters in host memory that the device writes around each collective, also where the step is a captured
/// graph and the host is not asked: what a watchdog can read at any time, from any thread, without a call to
/// the driver.
class ProgressCounters {
 public:
  ProgressCounters();
  /// Enqueues the mark. The counts are kept on the device, so a graph that is launched again counts on.
  void enter(std::int64_t bucket, const Stream& stream);
  void leave(const Stream& stream);
  /// Any thread.
  CollectiveProgress read() const;

 private:
  PinnedBuffer host_;    // entered, left, bucket
  DeviceBuffer device_;  // entered, left
};

}  // namespace lockstep::cuda
