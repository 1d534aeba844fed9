#pragma once

#include <string>
#include <vector>

#include "trainer/cli/doctor_findings.h"

namespace lockstep {

/// What there is to say of the accelerators that this build knows and this rank would use.
struct DeviceHealth {
  std::string kinds;  ///< what the build can compute on, and why not on the rest: one line, no end
  std::vector<std::string> lines;  ///< a line per device of this rank: name, memory, temperature, errors
  std::vector<Finding> findings;   ///< what is doubtful about them
};

/// (one) Every rank asks for itself; doctor gathers the answers. A device that is missing or ill is a
/// finding, never an exception. The one place where doctor learns of accelerators.
DeviceHealth examine_devices();

}  // namespace lockstep
