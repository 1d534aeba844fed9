#pragma once

#include "trainer/config.h"
#include "trainer/job.h"

namespace lockstep {

/// (all) `lockstep doctor`: ranks, hosts, devices, libraries and transports: what works, what does not and
/// why. Returns the exit code: 0 when nothing is wrong (doubtful findings are warnings), 2 otherwise.
int doctor_command(const CommandLine& command, Job& job);

}  // namespace lockstep
