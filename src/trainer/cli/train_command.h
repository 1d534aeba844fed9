#pragma once

#include "trainer/config/config.h"
#include "trainer/run/job.h"

namespace lockstep {

/// (all) `lockstep train`. Returns the exit code; throws lockstep::Error.
int train_command(const CommandLine& command, Job& job);

}  // namespace lockstep
