#pragma once

#include <memory>

#include "model/cuda/host_machine.h"
#include "trainer/step/device_step.h"

namespace lockstep::test {

/// The device's part of a step on a machine that the host plays: MachineStep<HostMachine>, compiled once.
std::unique_ptr<DeviceStep> make_host_step(std::unique_ptr<HostMachine> machine);

}  // namespace lockstep::test
