#pragma once

#include "trainer/config/config.h"

namespace lockstep {

/// `lockstep runs DIR...`: a row for every run in and below the folders, damaged ones too: its state, steps,
/// best validation and test, and the config keys in which the runs differ. With --output FILE as CSV (.csv)
/// or JSON instead. Throws InputError where there is no run at all. (one) Needs no ranks.
void runs_command(const CommandLine& command);

}  // namespace lockstep
