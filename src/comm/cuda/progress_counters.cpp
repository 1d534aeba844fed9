#include "comm/cuda/progress_counters.h"

#include <atomic>

#include "comm/cuda/sync_kernels.h"

namespace lockstep::cuda {

ProgressCounters::ProgressCounters() : host_(3 * sizeof(std::uint64_t)), device_(2 * sizeof(std::uint64_t)) {
  host_.as<std::int64_t>()[2] = -1;
}

void ProgressCounters::enter(std::int64_t bucket, const Stream& stream) {
  auto* host = reinterpret_cast<std::uint64_t*>(host_.device_data());
  launch_mark(device_.as<std::uint64_t>().data(), host, reinterpret_cast<std::int64_t*>(host + 2), bucket,
              stream.handle());
}

void ProgressCounters::leave(const Stream& stream) {
  auto* host = reinterpret_cast<std::uint64_t*>(host_.device_data());
  launch_mark(device_.as<std::uint64_t>().data() + 1, host + 1, nullptr, 0, stream.handle());
}

CollectiveProgress ProgressCounters::read() const {
  // `left` first: it then never shows more than what had been entered.
  auto* words = const_cast<std::uint64_t*>(reinterpret_cast<const std::uint64_t*>(host_.data()));
  CollectiveProgress progress;
  progress.left = std::atomic_ref(words[1]).load(std::memory_order_acquire);
  progress.entered = std::atomic_ref(words[0]).load(std::memory_order_acquire);
  progress.bucket = static_cast<std::int64_t>(std::atomic_ref(words[2]).load(std::memory_order_relaxed));
  return progress;
}

}  // namespace lockstep::cuda
