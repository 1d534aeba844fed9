#pragma once

#include "comm/world.h"

namespace lockstep {

/// Whether the variables of a launcher name a server by which ranks can find each other, and it is there. It
/// is looked for among the listening sockets of this machine and not called.
bool rendezvous_answers(const Environment& environment);

}  // namespace lockstep
