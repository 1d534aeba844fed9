#include "trainer/preemption.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fmt/format.h>
#include <pthread.h>

#include "core/error.h"

namespace lockstep {
namespace {

std::atomic<int> first_signal{0};
// What a handler may touch (C++ standard, [support.signal]): an atomic without a lock.
static_assert(std::atomic<int>::is_always_lock_free);

void remember(int signal) {
  int none = 0;
  first_signal.compare_exchange_strong(none, signal, std::memory_order_relaxed);
}

}  // namespace

void remember_preemption(bool termination) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGUSR1, SIGTERM}) {
    if (signal == SIGTERM && !termination) continue;
    struct sigaction action {};
    action.sa_handler = remember;
    // Reading and writing files goes on as if nothing had come.
    action.sa_flags = SA_RESTART;
    sigfillset(&action.sa_mask);
    if (sigaction(signal, &action, nullptr) != 0)
      throw InternalError(fmt::format("sigaction({}): {}", signal, std::strerror(errno)));
    sigaddset(&set, signal);
  }
  // Launchers pass it on; it asks for nothing, and by default it would end the process.
  std::signal(SIGUSR2, SIG_IGN);
  // A reader of the log who leaves is no reason to lose the training.
  std::signal(SIGPIPE, SIG_IGN);
  // Whoever started this process may have left them blocked.
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

int preemption_signal() noexcept {
  return first_signal.load(std::memory_order_relaxed);
}

const char* preemption_signal_name(int signal) noexcept {
  return signal == SIGTERM ? "SIGTERM" : "SIGUSR1";
}

}  // namespace lockstep
