#pragma once

#include <cstdint>
#include <vector>

namespace lockstep {

/// A process, known by pid and start time (proc(5), field 22): a pid alone may be used again.
struct Victim {
  std::int32_t pid = 0;
  std::uint64_t start_time = 0;
};

/// Leaves a process behind that in so many seconds kills (SIGKILL) those of `victims` that still live and
/// then ends: for a process that is about to leave, and whose launcher is to see it leave before they are
/// killed. At most 4,096 victims. It has a session and no descriptors of its own, so nobody waits for it.
void reap_later(const std::vector<Victim>& victims, int seconds) noexcept;

}  // namespace lockstep
