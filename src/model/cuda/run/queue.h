#pragma once

#include <functional>
#include <vector>

#include "device/cuda/device.h"
#include "model/cuda/kernels/launch.h"
#include "model/cuda/plan/own_op.h"
#include "model/cuda/plan/step_program.h"

namespace lockstep::cuda {

/// Memory of the current GPU and work that is enqueued on it: what the executor and the optimizer step have
/// in common. One host thread.
class GpuQueue {
 public:
  /// `compute` must outlive the queue. `wait`: how the host waits for an event where peers may fail
  /// meanwhile; empty: it just waits.
  explicit GpuQueue(const Stream& compute, std::function<void(const Event&)> wait = {});

  std::byte* allocate(std::size_t bytes);
  std::byte* allocate_arena(std::size_t bytes) { return allocate(bytes); }
  std::byte* allocate_pinned(std::size_t bytes);
  void copy_in(void* device, const void* pinned, std::size_t bytes, Lane lane) {
    copy_to_device(device, pinned, bytes, stream(lane));
  }
  void copy_out(void* pinned, const void* device, std::size_t bytes, Lane lane) {
    copy_to_host(pinned, device, bytes, stream(lane));
  }
  void make_events(int count);
  void record(int event, Lane on) { events_[static_cast<std::size_t>(event)].record(stream(on)); }
  void wait(int event, Lane on) { events_[static_cast<std::size_t>(event)].make_wait(stream(on)); }
  void host_wait(int event);
  bool reached(int event) { return events_[static_cast<std::size_t>(event)].reached(); }
  /// The host waits for everything on the compute stream.
  void finish();
  void make_marks(int count);
  /// Notes the time at which the compute stream comes here.
  void mark(int which) { marks_[static_cast<std::size_t>(which)].record(compute_); }
  /// Between two marks that the device has passed.
  double seconds_between(int from, int to) const;

  template <class Work>
  void each(std::int64_t n, const Work& work) {
    launch(n, work, multiprocessors_, compute_.handle());
  }
  void each_own(std::int64_t n, const OwnWork& kernel, const void* work) {
    kernel.on_device(n, work, multiprocessors_, compute_.handle());
  }

 protected:
  const Stream& compute() const { return compute_; }

 private:
  const Stream& stream(Lane lane) const;

  const Stream& compute_;
  int multiprocessors_;
  std::function<void(const Event&)> wait_;
  Stream upload_, download_;
  Event finished_;
  std::vector<DeviceBuffer> memory_;
  std::vector<PinnedBuffer> pinned_;
  std::vector<Event> events_;
  std::vector<Event> marks_;
};

}  // namespace lockstep::cuda
