#pragma once

#include <string>

#include "model/cuda/kernels/numbers.h"
#include "trainer/step/compute_device.h"

namespace lockstep::test {

/// The device that the test program is for, for one rank: with the flat buffers in its memory, or in the
/// host's. `ranks`: that will use it.
ComputeDevice step_device(bool resident, cuda::Precision precision, int ranks = 0);

/// Why there is none; empty where there is.
std::string step_device_missing();

}  // namespace lockstep::test
