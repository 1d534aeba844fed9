#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "watch/cpu_waits.h"
#include "watch/hang_verdict.h"
#include "watch/node_file.h"

namespace lockstep {

/// What one watchdog sees of the processes of its node. Time without progress is counted only while this
/// process itself runs: a job that is suspended as a whole does not hang. Of the time for which a process
/// waits for a cpu a tenth is counted. One thread.
class NodeWatch {
 public:
  /// `proc`: where the system tells whether processes get a cpu.
  NodeWatch(NodeFile& file, NodePlace place, std::string proc = "/proc");

  /// To be called often: sees who has moved since the last call. Whether a process waits for a cpu is looked
  /// at when it has been quiet for a quarter of `timeout`, in seconds.
  void look(std::int64_t now_ns, double timeout);
  /// From here on all ranks are known: slots that nobody has taken belong to nobody.
  void all_have_come() { all_have_come_ = true; }
  /// False when some process has moved within so many seconds or has not come into a wait or a phase that
  /// lasts: judging would be for nothing. Cheap.
  bool may_hang(double timeout, double start) const;
  /// Whether process `i` runs its watchdog, as far as beats tell. Cheap.
  bool alive(int i) const { return i == file_.own() || seen_[static_cast<std::size_t>(i)].silent_s < 3; }
  /// Everything about every process. Asks the system about those that have not moved.
  std::vector<RankView> views(std::int64_t now_ns);

 private:
  struct Seen {
    std::uint64_t beats = 0;
    std::uint64_t watch_beats = 0;
    RankState state = RankState::absent;
    double quiet_s = 0;   ///< without progress
    double silent_s = 0;  ///< without a beat of its watchdog
  };
  void describe_absent(RankView& view) const;

  NodeFile& file_;
  NodePlace place_;
  std::string host_;
  std::vector<Seen> seen_;
  CpuWaits cpu_waits_;
  std::int64_t looked_ns_ = 0;
  bool all_have_come_ = false;
};

/// Views as bytes for another node, and back; nothing where the bytes make no sense.
std::string pack(const std::vector<RankView>& views);
std::vector<RankView> unpack_views(const std::string& bytes);

}  // namespace lockstep
