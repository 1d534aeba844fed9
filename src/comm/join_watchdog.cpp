#include "comm/join_watchdog.h"

namespace lockstep {

void join_watchdog(Watchdog& watchdog, Communicator& comm) {
  watchdog.join(
      comm.rank(), [&](const std::string& text) { return comm.broadcast_text(text, 0); },
      [&](const std::string& mine) { return comm.all_gather_text(mine); });
}

}  // namespace lockstep
