#pragma once

#include <functional>
#include <string>
#include <vector>

#include "device/gpu.h"
#include "trainer/config/config.h"
#include "trainer/step/compute_device.h"

namespace lockstep {

/// A kind of device besides the CPU.
struct DeviceEntry {
  std::string name;     ///< as in device.kind
  bool built = false;   ///< part of this build
  std::string missing;  ///< why it is not part of it: a clause; empty where it is
  /// Those that it computes with, and their versions; loads them. Null where it is not built.
  std::string (*libraries)() = nullptr;
  /// Makes `gpu` this process's own, for all of its life. `shared`: another rank uses it too. Throws
  /// DeviceError.
  std::function<ComputeDevice(const GpuInfo& gpu, bool shared, const Config& config)> open;
  GpuProbe (*probe)() = nullptr;  ///< what this process may use; never throws; null where it is not built
};

/// The devices besides the CPU that Lockstep knows of, built in or not. The one place that depends on what
/// was built: defined in devices_cuda.cpp or devices_none.cpp, of which the build takes one.
std::vector<DeviceEntry> accelerators();

}  // namespace lockstep
