#include "trainer/doctor_devices.h"

namespace lockstep {

DeviceHealth examine_devices() {
  DeviceHealth health;
  health.kinds = "cpu; cuda is not part of this build";
  return health;
}

}  // namespace lockstep
