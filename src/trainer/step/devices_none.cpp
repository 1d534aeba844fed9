#include "trainer/step/device_table.h"

namespace lockstep {

#ifndef LOCKSTEP_CUDA_MISSING
#error "LOCKSTEP_CUDA_MISSING is set by the build"
#endif

std::vector<DeviceEntry> accelerators() {
  DeviceEntry cuda;
  cuda.name = "cuda";
  cuda.missing = LOCKSTEP_CUDA_MISSING;
  return {cuda};
}

}  // namespace lockstep
