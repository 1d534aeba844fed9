#pragma once

#include <chrono>

namespace lockstep {

/// Seconds of the steady clock, which processes of one host share and no one sets: for differences.
inline double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace lockstep
