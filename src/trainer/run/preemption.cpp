#include "trainer/run/preemption.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <fmt/format.h>
#include <pthread.h>
#include <unistd.h>

#include "core/error.h"

namespace lockstep {
namespace {

std::atomic<int> first_signal{0};
std::atomic<bool> answers{false};
std::atomic<std::int64_t> interrupted_at{0};  // milliseconds of the first SIGINT; 0: none came
// What a handler may touch (C++ standard, [support.signal]): an atomic without a lock.
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<std::int64_t>::is_always_lock_free);

/// A wrapper such as `timeout` signals its child and then the group that the child is in: one request.
constexpr std::int64_t one_request_ms = 500;

/// From 1.
std::int64_t milliseconds_now() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);  // a handler may call it (POSIX)
  return std::max<std::int64_t>(1, std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000);
}

void remember(int signal) {
  int none = 0;
  first_signal.compare_exchange_strong(none, signal, std::memory_order_relaxed);
}

void remember_interrupt(int signal) {
  const std::int64_t now = milliseconds_now();
  std::int64_t first = 0;
  if (!interrupted_at.compare_exchange_strong(first, now, std::memory_order_relaxed)) {
    if (now - first < one_request_ms) return;
    // Whoever asks twice will not wait for a checkpoint. The signal comes when this handler is left.
    std::signal(signal, SIG_DFL);
    ::pthread_kill(::pthread_self(), signal);
    return;
  }
  first_signal.store(signal, std::memory_order_relaxed);
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
  for (const int signal : {SIGUSR1, SIGTERM, SIGHUP, SIGINT}) {
    if ((signal == SIGTERM || signal == SIGHUP) && !signals.termination) continue;
    // `nohup` says that a closed terminal is to change nothing.
    if (signal == SIGHUP && is_ignored(SIGHUP)) continue;
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
  switch (signal) {
    case SIGTERM:
      return "SIGTERM";
    case SIGHUP:
      return "SIGHUP";
    case SIGINT:
      return "SIGINT";
    default:
      return "SIGUSR1";
  }
}

}  // namespace lockstep
