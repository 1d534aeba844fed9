#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "model/cuda/kernels/numbers.h"
#include "model/executor_check.h"

namespace lockstep::test {

/// A device, in one precision, that the device-neutral tests of executors run on.
struct DeviceUnderTest {
  std::string name;  ///< of the test instance
  cuda::Precision precision = cuda::Precision::fp32;
  Compile compile;
  std::string
      missing;  ///< why it cannot be had here; the test is then skipped, or fails where it is required
  std::string means = "gpu";  ///< what is missing then, as LOCKSTEP_REQUIRE names it
};

/// What googletest prints of it.
inline std::ostream& operator<<(std::ostream& out, const DeviceUnderTest& device) {
  return out << device.name;
}

/// The devices of this test program.
std::vector<DeviceUnderTest> devices_under_test();

}  // namespace lockstep::test
