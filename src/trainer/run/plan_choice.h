#pragma once

#include <cstdint>
#include <string>

#include "comm/communicator.h"
#include "trainer/checkpoint/run_state.h"

namespace lockstep {

/// (all) The plans that the newest whole checkpoint of the run in `run_dir` was computed with, as far as they
/// are for so many slices, and so many rows in one of an evaluation; empty where there is no checkpoint, or
/// it holds none.
PlanChoices stored_plan_choices(Communicator& comm, const std::string& run_dir, std::int64_t slices,
                                std::int64_t evaluation_rows);

}  // namespace lockstep
