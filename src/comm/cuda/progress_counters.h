#pragma once

#include <cstdint>

#include "core/flight_recorder.h"
#include "device/cuda/memory.h"

namespace lockstep::cuda {

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
