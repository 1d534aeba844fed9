#include "trainer/preemption.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fmt/format.h>
#include <pthread.h>
#include <unistd.h>

#include "core/error.h"

namespace lockstep {
namespace {

std::atomic<int> first_signal{0};
std::atomic<bool> answers{false};
// What a handler may touch (C++ standard, [support.signal]): an atomic without a lock.
static_assert(std::atomic<int>::is_always_lock_free);

void remember(int signal) {
  int none = 0;
  first_signal.compare_exchange_strong(none, signal, std::memory_order_relaxed);
}

void remember_interrupt(int signal) {
  // Whoever asks twice will not wait for a checkpoint. The signal comes when this handler is left.
  if (first_signal.exchange(signal, std::memory_order_relaxed) == signal) {
    std::signal(signal, SIG_DFL);
    ::pthread_kill(::pthread_self(), signal);
    return;
  }
  if (!answers.load(std::memory_order_relaxed)) return;
  constexpr char text[] = "\nlockstep: interrupted: saving a checkpoint; Ctrl-C again ends at once without\n";
  const int before = errno;
  if (::write(2, text, sizeof text - 1) < 0) errno = before;
}

bool is_ignored(int signal) {
  struct sigaction now {};
  return sigaction(signal, nullptr, &now) == 0 && now.sa_handler == SIG_IGN;
}

}  // namespace

void remember_preemption(const StopSignals& signals) {
  sigset_t set;
  sigemptyset(&set);
  answers = signals.speaks && ::isatty(2) == 1;
  for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) {
    if (signal == SIGTERM && !signals.termination) continue;
    // A job in the background of a script is not meant by Ctrl-C.
    if (signal == SIGINT && (!signals.interrupt || is_ignored(SIGINT))) continue;
    struct sigaction action {};
    action.sa_handler = signal == SIGINT ? remember_interrupt : remember;
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
  return signal == SIGTERM ? "SIGTERM" : signal == SIGINT ? "SIGINT" : "SIGUSR1";
}

}  // namespace lockstep
