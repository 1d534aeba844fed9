#pragma once

#include <string>

#include "comm/communicator.h"

namespace lockstep {

/// (all) The library plans that the newest whole checkpoint of the run in `run_dir` was computed with; empty
/// where there is none, or it holds none.
std::string stored_plan_choice(Communicator& comm, const std::string& run_dir);

}  // namespace lockstep
