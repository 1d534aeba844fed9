#pragma once

namespace lockstep {

/// Which signals ask `train` to save and leave.
struct StopSignals {
  bool termination =
      false;               ///< SIGTERM too. Under mpirun it means that a peer died, so it is no request there
  bool interrupt = false;  ///< SIGINT too, where it is not ignored already; a second one ends the process
  bool speaks = false;     ///< this process answers the first SIGINT with a line on the terminal
};

/// A request to save and leave, as a scheduler makes it: SIGUSR1, and what `signals` says. From here on these
/// signals end nothing by themselves; they are remembered, however many come. To be called before threads and
/// MPI start.
///
/// A signal handler can reach nothing but variables of the process: these are Lockstep's only ones.
void remember_preemption(const StopSignals& signals);

/// The signal that came first, or 0; SIGINT where one came. Any thread.
int preemption_signal() noexcept;

/// "SIGUSR1", "SIGTERM", "SIGINT"; for messages.
const char* preemption_signal_name(int signal) noexcept;

}  // namespace lockstep
