#pragma once

namespace lockstep {

/// Which signals ask `train` to save and leave.
struct StopSignals {
  /// SIGTERM too, and SIGHUP (a closed terminal) where it is not ignored already. Under mpirun SIGTERM means
  /// that a peer died, so it is no request there.
  bool termination = false;
  /// SIGINT too, where it is not ignored already; a second one ends the process, unless it comes within half
  /// a second of the first, as from a wrapper that signals a process and then its group.
  bool interrupt = false;
  bool speaks = false;  ///< this process answers the first SIGINT with a line on the terminal
};

/// A request to save and leave, as a scheduler makes it: SIGUSR1, and what `signals` says. From here on these
/// signals end nothing by themselves; they are remembered, however many come. To be called before threads and
/// MPI start.
///
/// A signal handler can reach nothing but variables of the process: these are Lockstep's only ones.
void remember_preemption(const StopSignals& signals);

/// The signal that came first, or 0; SIGINT where one came. Any thread.
int preemption_signal() noexcept;

/// "SIGUSR1", "SIGTERM", "SIGHUP", "SIGINT"; for messages.
const char* preemption_signal_name(int signal) noexcept;

}  // namespace lockstep
