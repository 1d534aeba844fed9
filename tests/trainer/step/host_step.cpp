#include "trainer/step/host_step.h"

#include <utility>

#include "trainer/step/machine_step.h"

namespace lockstep::test {

std::unique_ptr<DeviceStep> make_host_step(std::unique_ptr<HostMachine> machine) {
  return std::make_unique<MachineStep<HostMachine>>(std::move(machine));
}

}  // namespace lockstep::test
