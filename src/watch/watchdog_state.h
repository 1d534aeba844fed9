#pragma once

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/file.h"
#include "core/launcher.h"
#include "device/cpu_info.h"
#include "watch/hang_verdict.h"
#include "watch/node_file.h"
#include "watch/node_watch.h"
#include "watch/side_link.h"
#include "watch/watchdog.h"

namespace lockstep {

/// What a Watchdog holds, and its thread: watchdog.cpp looks on, watchdog_end.cpp says why the job ends and
/// ends it.
struct Watchdog::State {
  State(const Environment& environment, double seconds)
      : place(node_place(environment)),
        launcher(launcher_identity(environment)),
        forced(watchdog_timeout_of(environment)),
        file(place),
        recorder(file.mine()),
        watch(file, place),
        host(host_name()) {
    timeout = forced.value_or(seconds);
    file.mine().rank = launcher ? launcher->rank : 0;
  }

  bool started_by_mpirun() const { return launcher && launcher->launcher == "mpirun"; }
  double limit() const { return timeout.load(std::memory_order_relaxed); }
  /// Processes of a big job do not come at the same moment.
  double start_limit() const {
    const int size = launcher ? std::max(launcher->size, place.local_size) : 1;
    return limit() + 2 + size / 4.0;
  }
  int period_ms() const {
    const double t = limit();
    return t <= 0 ? 500 : static_cast<int>(std::clamp(t * 1000 / 20, 20.0, 250.0));
  }
  /// Before the rendezvous: whether the job has ranks that this node cannot see.
  bool alone() const {
    return link.joined() ? link.nodes() == 0 : !launcher || launcher->size <= place.local_size;
  }

  void run();
  void look(std::int64_t now);
  void ask_nodes(std::int64_t now);
  std::vector<RankView> all_views(std::int64_t now);
  void add_remote(std::vector<RankView>& views, std::size_t node, std::int64_t now);
  bool my_turn(const std::vector<RankView>& views, double since) const;
  void report(const HangReport& report, const std::vector<RankView>& views);
  [[noreturn]] void leave();
  [[noreturn]] void terminated(long sender);
  bool nobody_failed();
  void say_interrupted();
  void say_ended();
  void say_farewell();
  void take_links();

  const NodePlace place;
  const std::optional<LauncherIdentity> launcher;
  const std::optional<double> forced;
  NodeFile file;
  FlightRecorder recorder;
  NodeWatch watch;
  SideLink link;
  const std::string host;
  std::atomic<double> timeout{0};
  std::atomic<bool> stop{false};
  FileDescriptor signals;
  sigset_t mask_before{};

  std::mutex mutex;  ///< guards what follows, which the rank's own threads set
  std::string directory;
  std::string way_on;
  std::function<void()> farewell;
  struct Links {
    std::uint64_t token = 0;
    std::vector<SideLink::Node> nodes;
    std::vector<std::vector<RankView>> ranks;  ///< of each node: who they are
  };
  std::optional<Links> joined;

  // Of the thread.
  std::vector<std::vector<RankView>> remote;
  std::int64_t joined_ns = 0;
  std::int64_t asked_ns = 0;
  std::int64_t asks_since_ns = 0;  ///< since when this process asks; 0: another one of this node does
  std::int64_t hang_ns = 0;        ///< since when there is a verdict; 0: there is none
  bool lost_host = false;
  std::int64_t ending_ns = 0;  ///< since when somebody of this node has been making the report
  std::thread thread;
};

}  // namespace lockstep
