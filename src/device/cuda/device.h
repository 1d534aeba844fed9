#pragma once

// Everything of the CUDA runtime that the layers above use: checked calls, streams, events, captured graphs,
// memory, and this rank's device.

#include <cstdint>
#include <string>
#include <string_view>

#include "device/cuda/call.h"
#include "device/cuda/memory.h"
#include "device/cuda/stream.h"
#include "device/gpu.h"

namespace lockstep::cuda {

/// The GPUs that this process may use, in the order of the runtime (CUDA_VISIBLE_DEVICES is honoured), or why
/// there are none. Starts the driver, but makes no context on any GPU. Never throws.
GpuProbe probe_gpus();

/// The runtime and the driver, one line, e.g. "CUDA runtime 13.0, driver 13.0"; "no driver" where there is
/// none.
std::string runtime_version();

/// This rank's GPU. Made current for the calling thread; other threads that use it call make_current() first.
class Device {
 public:
  /// Makes GPU `info.ordinal` current and its context. Throws DeviceError; ConfigError where this program has
  /// no code for it.
  explicit Device(const GpuInfo& info);
  const GpuInfo& info() const noexcept { return info_; }
  void make_current() const;
  /// Free and total bytes of memory at this moment.
  struct Memory {
    std::size_t free = 0;
    std::size_t total = 0;
  };
  Memory memory() const;

 private:
  GpuInfo info_;
};

}  // namespace lockstep::cuda
