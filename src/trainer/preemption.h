#pragma once

namespace lockstep {

/// A request to save and leave, as a scheduler makes it: SIGUSR1, or (with `termination`) SIGTERM. From here
/// on these signals end nothing by themselves; they are remembered, however many come. To be called before
/// threads and MPI start. Under mpirun SIGTERM means that a peer died, so it is no request there.
///
/// A signal handler can reach nothing but a variable of the process: this is Lockstep's only one.
void remember_preemption(bool termination);

/// The signal that came first, or 0. Any thread.
int preemption_signal() noexcept;

/// "SIGUSR1", "SIGTERM"; for messages.
const char* preemption_signal_name(int signal) noexcept;

}  // namespace lockstep
