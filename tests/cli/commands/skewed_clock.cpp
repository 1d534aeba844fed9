// Preloaded into one rank: a wall clock that is some seconds ahead (LOCKSTEP_TEST_CLOCK_AHEAD). Other clocks
// are as they were.

#include <cstdlib>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

extern "C" int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const long result = syscall(SYS_clock_gettime, clock, time);
  const char* ahead = std::getenv("LOCKSTEP_TEST_CLOCK_AHEAD");
  if (result == 0 && clock == CLOCK_REALTIME && ahead != nullptr) time->tv_sec += std::atol(ahead);
  return static_cast<int>(result);
}
