#pragma once

#include <memory>
#include <utility>

#include "comm/cuda/standing.h"
#include "comm/sync/gradient_sync.h"
#include "device/cuda/device.h"

namespace lockstep::cuda {

/// A gradient synchroniser whose memory is a GPU's: slot(), parameters(), totals() and finite_marks() are
/// device addresses.
///
/// begin_step(), ready(), finish(), publish_parameters() and gather_parameters(0, 1) take effect in the order
/// of the compute stream: what was enqueued on it before is seen by them, and what is enqueued on it after is
/// seen to come after them. One host thread calls; there are no lanes.
class DeviceGradientSync : public GradientSync {
 public:
  /// True when the calls only enqueue, so that a step that makes them can be captured into a graph.
  virtual bool only_enqueues() const = 0;
  /// The one way to wait for the device while peers are involved: throws CommError instead of waiting for
  /// ever.
  virtual void wait(const Event& event) = 0;
  /// Once: *place names this synchroniser until it ends.
  void stand_in(std::shared_ptr<DeviceGradientSync*> place) { standing_.take(std::move(place), this); }

 private:
  Standing<DeviceGradientSync> standing_;
};

}  // namespace lockstep::cuda
