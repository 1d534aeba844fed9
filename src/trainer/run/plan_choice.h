#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "comm/communicator.h"

namespace lockstep {

/// The library plans that a run computes with, as Executor::plan_choice() tells them.
struct PlanChoices {
  std::string training;
  std::string evaluation;
  std::int64_t evaluation_rows = 0;  ///< of the slices that the latter are for
};

/// For TrainingState::extra.
void add_plan_choices(nlohmann::json& extra, const PlanChoices& choices);

/// (all) The plans that the newest whole checkpoint of the run in `run_dir` was computed with, as far as they
/// are for so many slices, and so many rows in one of an evaluation; empty where there is no checkpoint, or
/// it holds none.
PlanChoices stored_plan_choices(Communicator& comm, const std::string& run_dir, std::int64_t slices,
                                std::int64_t evaluation_rows);

}  // namespace lockstep
