#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace lockstep {

/// Tells ranks that do nothing from ranks that are not let do anything: on a machine with too much to do a
/// thread may stand in the kernel's queue for seconds, and then nothing is wrong with its rank. One thread.
class CpuWaits {
 public:
  /// `proc`: where the system tells about processes, proc(5).
  explicit CpuWaits(std::string proc = "/proc") : proc_(std::move(proc)) {}

  /// Whether a thread of this process, with no lower priority than its first one, was ready to run at the
  /// last look and is now, and has not run at all between. False at the first look, and where the system does
  /// not count (CONFIG_SCHED_INFO). Looks should be 20 ms apart: the system brings the counts of a thread
  /// that runs on up to date at its ticks.
  bool look(long pid);
  /// The next look is the first one again.
  void forget(long pid) { threads_.erase(pid); }

 private:
  std::string proc_;
  /// Two counts of the time on a cpu: on cpus without ticks (nohz_full) the first one stands still for a
  /// second, on others the second one is coarse.
  struct Ran {
    std::int64_t ns;
    std::int64_t clock_ticks;
    friend bool operator==(const Ran&, const Ran&) = default;
  };
  std::map<long, std::map<std::int64_t, Ran>> threads_;  ///< of each process, those that are ready
};

}  // namespace lockstep
