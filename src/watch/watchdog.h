#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/environment.h"
#include "core/flight_recorder.h"

namespace lockstep {

inline constexpr const char* watchdog_timeout_variable = "LOCKSTEP_WATCHDOG_TIMEOUT";

/// Seconds that LOCKSTEP_WATCHDOG_TIMEOUT asks for, or nothing. Throws ConfigError when it is no number of
/// seconds.
std::optional<double> watchdog_timeout_of(const Environment& environment);

/// Watches the job from every rank: a thread of its own, started before MPI, that sees the flight recorders
/// of all ranks of the node in shared memory and those of other nodes over TCP (watch/side_link.h). When
/// nothing moves any more (watch/hang_verdict.h) the lowest live rank reports once, on standard error and in
/// the run directory, and every rank ends with exit code 4; what does not end is killed.
///
/// Under mpirun it also takes SIGTERM. Where a peer has failed: one line of what this rank did last, its
/// flight recorder in the run directory, and the process ends. Where no rank has failed, mpirun itself was
/// interrupted (Ctrl-C, a signal): one line of rank 0 alone.
///
/// One per process, made by main before MPI starts and before other threads, and outliving it.
class Watchdog {
 public:
  /// `environment` as the launcher left it; `timeout` in seconds, 0: never.
  Watchdog(const Environment& environment, double timeout);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  FlightRecorder& recorder();
  /// From now on; any thread. LOCKSTEP_WATCHDOG_TIMEOUT, where it is set, wins.
  void set_timeout(double seconds);
  /// Where hang.report.txt and, after a SIGTERM of mpirun, terminated.report.txt go, beside standard error.
  void set_report_directory(const std::string& path);
  /// What rank 0 is to add when mpirun was interrupted: what is saved, and how to go on. Any thread.
  void set_way_on(const std::string& sentence);
  /// What this rank does last when it ends the process itself, whatever the reason, or is ended by mpirun:
  /// something short that other jobs are not to wait for. Called once, by a thread of its own that is not
  /// waited for longer than a moment, since a disk may be what hangs. Any thread.
  void set_farewell(std::function<void()> farewell);
  /// (all) After the rendezvous: from here on the watchdogs of all nodes know each other, and this one's rank
  /// is `rank`. Both functions are collectives over all ranks: the text of rank 0 on every rank, and the
  /// texts of all ranks, by rank.
  void join(int rank, const std::function<std::string(const std::string&)>& broadcast_text,
            const std::function<std::vector<std::string>(const std::string&)>& all_gather_text);
  /// This rank has reported an error and ends the job with a code of its own: its peers need not say that
  /// they are ended. The farewell is said.
  void failing();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lockstep
