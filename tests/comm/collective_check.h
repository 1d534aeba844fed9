#pragma once

#include <string>

#include "comm/communicator.h"

namespace lockstep::test {

/// (all) Every collective and kind of message on data whose result is known exactly. Returns what is wrong on
/// this rank, or an empty text.
std::string check_collectives(Communicator& comm);

/// (all) agree_on_error() and agree(): one rank fails, then two, then none.
std::string check_agree_on_error(Communicator& comm);

/// (all) StepControl: over many steps, in which now this, now that rank comes late, every rank hears the
/// words of all ranks, each once and at the same step.
std::string check_step_control(Communicator& comm);

}  // namespace lockstep::test
