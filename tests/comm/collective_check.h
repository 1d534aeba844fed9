#pragma once

#include <string>

#include "comm/communicator.h"

namespace lockstep::test {

/// (all) Every collective and kind of message on data whose result is known exactly. Returns what is wrong on
/// this rank, or an empty text.
std::string check_collectives(Communicator& comm);

/// (all) together() and agree(): one rank fails, then two, then none.
std::string check_together(Communicator& comm);

}  // namespace lockstep::test
