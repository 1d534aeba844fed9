#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/world.h"
#include "trainer/config/config.h"
#include "trainer/step/device_table.h"

namespace lockstep {

/// What a rank computes on.
struct DeviceChoice {
  std::string kind = "cpu";  ///< "cpu", or the name of a DeviceEntry
  GpuInfo gpu;               ///< unless kind is "cpu"
  bool shared = false;       ///< some ranks of the job share a GPU: collectives must go through the host
  std::string note;  ///< why `auto` took the CPU although a rank sees GPUs; the same on all ranks, or empty
  std::string warning;  ///< what is doubtful; the same on all ranks, or empty
};

/// Throws ConfigError when device.kind asks for a device that this build or this machine does not have.
void check_device(const Config& config, const std::vector<DeviceEntry>& entries = accelerators());

/// (all) The device of every rank, as device.kind and device.share say. A rank gets the GPU of its local
/// rank, or another one where ranks see different GPUs; `auto` takes GPUs where every rank gets one of its
/// own, and the CPU elsewhere. Throws ConfigError on the first rank concerned, or on rank 0, and SilentError
/// on the others, where `cuda` was asked for and cannot be had. Where the ranks see different GPUs the result
/// says so in `warning`.
DeviceChoice choose_device(const Config& config, Communicator& comm,
                           const std::vector<DeviceEntry>& entries = accelerators());

/// (one) The device that was chosen, ready to compile for. Throws ConfigError where the CPU was chosen and
/// does not compute in train.precision.
ComputeDevice open_device(const DeviceChoice& choice, const Config& config,
                          const std::vector<DeviceEntry>& entries = accelerators());

/// Restricts the calling thread, and those it starts, to the cpus next to the rank's GPU, as far as it may
/// use them: before lanes are made. Nothing happens with device.pin = false, on the CPU, or where the system
/// does not say which cpus are near.
void bind_near(const DeviceChoice& choice, const Config& config, const std::string& sysfs = "/sys");

}  // namespace lockstep
