#pragma once

#include <atomic>
#include <exception>
#include <mutex>
#include <utility>

#include "device/lane_pool.h"

namespace lockstep::cpu {

/// Lanes that work on one slice together. reset() at the start of each round, before any of them arrives.
struct Team {
  int members = 1;
  std::atomic<int> arrived{0};
  std::atomic<unsigned> phase{0};
  std::atomic<int> ticket{0};

  void reset(int lanes) {
    members = lanes;
    ticket.store(0, std::memory_order_relaxed);
    arrived.store(0, std::memory_order_relaxed);
  }
};

/// How lanes wait for each other: a lane that throws ends the waits of all others. Allocates nothing.
class Teamwork {
 public:
  /// Calls body(lane) on every lane, and throws the first exception of any.
  template <class Body>
  void run(LanePool& lanes, Body&& body) {
    failed_.store(false, std::memory_order_relaxed);
    failure_ = nullptr;
    lanes.run([&](int lane) {
      try {
        body(lane);
      } catch (const Cancelled&) {
        // Another lane has failed and holds the reason.
      } catch (...) {
        const std::lock_guard lock(failure_mutex_);
        if (!failure_) failure_ = std::current_exception();
        failed_.store(true);
      }
    });
    if (failure_) std::rethrow_exception(failure_);
  }

  /// Within run(): runs task(t) for t in [0, tasks) on the lanes of the team; returns on every member when
  /// all have ended. `last` runs once, on one member, before anybody goes on.
  template <class Task, class Last>
  void phase(Team& team, int tasks, Task&& task, Last&& last) {
    if (team.members == 1) {
      for (int t = 0; t < tasks; ++t) task(t);
      last();
      return;
    }
    for (int t = team.ticket.fetch_add(1, std::memory_order_relaxed); t < tasks;
         t = team.ticket.fetch_add(1, std::memory_order_relaxed))
      task(t);
    arrive(team, std::forward<Last>(last));
  }
  template <class Task>
  void phase(Team& team, int tasks, Task&& task) {
    phase(team, tasks, std::forward<Task>(task), [] {});
  }

  /// Within run(): returns when every member of the team has come and `last` has run on the last one.
  template <class Last>
  void arrive(Team& team, Last&& last) {
    if (team.members == 1) {
      last();
      return;
    }
    const unsigned phase = team.phase.load(std::memory_order_acquire);
    if (team.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == team.members) {
      last();
      team.ticket.store(0, std::memory_order_relaxed);
      team.arrived.store(0, std::memory_order_relaxed);
      team.phase.store(phase + 1, std::memory_order_release);
      return;
    }
    unsigned spins = 0;
    while (team.phase.load(std::memory_order_acquire) == phase) {
      if (failed_.load(std::memory_order_relaxed)) throw Cancelled{};
      relax(spins);
    }
  }

 private:
  struct Cancelled {};
  std::atomic<bool> failed_{false};
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
};

}  // namespace lockstep::cpu
