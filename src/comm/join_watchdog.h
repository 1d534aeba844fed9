#pragma once

#include "comm/communicator.h"
#include "watch/watchdog.h"

namespace lockstep {

/// (all) After the rendezvous: from here on the watchdogs of all nodes know each other.
void join_watchdog(Watchdog& watchdog, Communicator& comm);

}  // namespace lockstep
