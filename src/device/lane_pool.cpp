#include "device/lane_pool.h"

#include <chrono>
#include <exception>
#include <fmt/format.h>
#include <omp.h>
#include <pthread.h>
#include <system_error>
#include <thread>

#include "core/error.h"
#include "device/cpu_info.h"
#include "device/processor.h"

namespace lockstep {
namespace {

using Clock = std::chrono::steady_clock;

/// A waiting lane spins for so long, so that it wakes within a microsecond while a step goes on. Two lanes
/// that the kernel has put on one cpu lose twice this time per run() …
constexpr std::chrono::microseconds spin_time{20};
/// … hardly at all where lanes are more than cpus, and spinning keeps the awaited lane from its cpu …
constexpr std::chrono::microseconds spin_time_crowded{2};
/// … then lets others run between looks, and from here on sleeps in the kernel: idle lanes cost nothing.
constexpr std::chrono::milliseconds sleep_after{2};

/// Waits until ready(word) and returns the word. Whoever makes it ready must notify.
template <class T, class Ready>
T await(const std::atomic<T>& word, std::chrono::microseconds spin, Ready ready) noexcept {
  T value = word.load(std::memory_order_acquire);
  if (ready(value)) return value;
  const Clock::time_point start = Clock::now();
  for (Clock::duration waited{}; waited < sleep_after; waited = Clock::now() - start) {
    // Looking at the clock costs about as much as a pause, hence several pauses between.
    for (int i = 0; i < 8; ++i) {
      pause_instruction();
      value = word.load(std::memory_order_acquire);
      if (ready(value)) return value;
    }
    if (waited >= spin) std::this_thread::yield();
  }
  for (;;) {
    value = word.load(std::memory_order_acquire);
    if (ready(value)) return value;
    word.wait(value, std::memory_order_acquire);
  }
}

}  // namespace

struct LanePool::State {
  // What the lanes are to do, on one cache line: written before `round` is raised, read after it was seen to
  // rise.
  alignas(64) std::atomic<std::uint32_t> round{0};  ///< raised once per run
  bool stop = false;
  std::atomic<bool> busy{false};  ///< run() is under way
  Entry entry = nullptr;
  void* context = nullptr;
  std::chrono::microseconds spin = spin_time;
  std::thread::id caller;  ///< the thread that is prepared to be lane 0
  std::thread::id maker;
  std::vector<std::exception_ptr> errors;   ///< by lane
  std::vector<std::thread> threads;         ///< lanes 1 …
  std::vector<int> makers_cpus;             ///< its affinity before it was pinned; empty when it was not
  alignas(64) std::atomic<int> working{0};  ///< lanes 1 … that have not ended the round

  void call(int lane) noexcept {
    keep_denormals();
    try {
      entry(context, lane);
    } catch (...) {
      errors[static_cast<std::size_t>(lane)] = std::current_exception();
    }
  }

  /// The life of lane 1 and above. Starting up counts as a round, so that the first run() meets lanes that
  /// have nothing left to set up.
  void serve(int lane) noexcept {
    prepare_compute_thread();
    for (std::uint32_t seen = 0;;) {
      if (working.fetch_sub(1) == 1) working.notify_all();
      seen = await(round, spin, [seen](std::uint32_t r) { return r != seen; });
      if (stop) return;
      call(lane);
    }
  }

  void await_lanes() noexcept {
    await(working, spin, [](int left) { return left == 0; });
  }

  void end_threads() noexcept {
    // A lane that has not started yet finds `round` raised already, and `stop` with it.
    stop = true;
    round.fetch_add(1);
    round.notify_all();
    for (std::thread& thread : threads) thread.join();
    threads.clear();
  }
};

LanePool::LanePool(int lanes, const std::vector<int>& cpus) : lanes_(lanes) {
  require(lanes >= 1, "LanePool: no lanes");
  require(cpus.empty() || cpus.size() == static_cast<std::size_t>(lanes), "LanePool: one cpu per lane");
  state_ = std::make_unique<State>();
  State& s = *state_;
  const std::vector<int> allowed = allowed_cpus();
  if (static_cast<std::size_t>(lanes) > allowed.size()) s.spin = spin_time_crowded;
  s.errors.resize(static_cast<std::size_t>(lanes));
  s.threads.reserve(static_cast<std::size_t>(lanes - 1));
  s.maker = s.caller = std::this_thread::get_id();
  prepare_compute_thread();

  s.working.store(lanes - 1);
  try {
    for (int lane = 1; lane < lanes; ++lane) {
      try {
        s.threads.emplace_back([&s, lane] { s.serve(lane); });
      } catch (const std::system_error& e) {
        throw DeviceError(
            fmt::format("cannot start lane {} of {}: {}; lower device.threads or raise the limit on threads",
                        lane, lanes, e.code().message()));
      }
      const pthread_t handle = s.threads.back().native_handle();
      pthread_setname_np(handle, fmt::format("lane-{}", lane).substr(0, 15).c_str());
      if (!cpus.empty()) pin_thread(handle, {cpus[static_cast<std::size_t>(lane)]});
    }
    if (!cpus.empty()) {
      pin_thread(pthread_self(), {cpus[0]});
      s.makers_cpus = allowed;
    }
  } catch (...) {
    s.end_threads();
    throw;
  }
  s.await_lanes();
}

LanePool::~LanePool() {
  state_->end_threads();
  if (!state_->makers_cpus.empty() && std::this_thread::get_id() == state_->maker) {
    try {
      pin_thread(pthread_self(), state_->makers_cpus);
    } catch (const DeviceError&) {
      // The old mask is allowed no more (a cpuset was changed): the thread stays where it is, which is no
      // error.
    }
  }
}

void LanePool::run_erased(Entry entry, void* context) {
  State& s = *state_;
  require(!s.busy.exchange(true), "LanePool: run() inside run(), or by two threads at once");
  if (s.caller != std::this_thread::get_id()) {
    prepare_compute_thread();
    s.caller = std::this_thread::get_id();
  }
  s.entry = entry;
  s.context = context;
  if (lanes_ > 1) {
    s.working.store(lanes_ - 1, std::memory_order_relaxed);
    // Sequentially consistent, as notify_all() must not pass it: a lane about to sleep would be missed.
    s.round.fetch_add(1);
    s.round.notify_all();
  }
  s.call(0);
  s.await_lanes();

  std::exception_ptr first;
  for (std::exception_ptr& error : s.errors) {
    if (!error) continue;
    if (!first) first = error;
    error = nullptr;
  }
  s.busy.store(false);
  if (first) std::rethrow_exception(first);
}

void prepare_compute_thread() {
  omp_set_num_threads(1);
  keep_denormals();
}

void relax(unsigned& spins) noexcept {
  // About 15 µs of pauses, then some milliseconds of yields (half a microsecond each on an idle cpu).
  constexpr unsigned pauses = 256, yields = 4096;
  if (spins < pauses) {
    pause_instruction();
  } else if (spins < pauses + yields) {
    std::this_thread::yield();
  } else {
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    return;  // the counter stays, so that it cannot wrap
  }
  ++spins;
}

}  // namespace lockstep
