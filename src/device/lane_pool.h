#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <type_traits>
#include <vector>

namespace lockstep {

/// The lanes of this rank: threads that compute side by side. The calling thread is lane 0. Every lane
/// runs library primitives on one thread (omp_set_num_threads(1)), with denormals kept (MXCSR without
/// FTZ and DAZ) and, when cpus are given, pinned to its own cpu. run() allocates nothing.
class LanePool {
 public:
  /// lanes >= 1. `cpus`: the cpu each lane is pinned to, or empty for none.
  explicit LanePool(int lanes, const std::vector<int>& cpus = {});
  ~LanePool();
  LanePool(const LanePool&) = delete;
  LanePool& operator=(const LanePool&) = delete;

  int size() const noexcept { return lanes_; }

  /// Calls body(lane) once on every lane, and returns when all have ended. The first exception (in the
  /// order of lanes) is thrown here; a body that waits for another lane must not throw while it waits.
  template <class Body>
  void run(Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    run_erased([](void* context, int lane) { (*static_cast<Plain*>(context))(lane); },
               const_cast<void*>(static_cast<const void*>(std::addressof(body))));
  }

 private:
  using Entry = void (*)(void* context, int lane);
  void run_erased(Entry entry, void* context);
  struct State;
  int lanes_;
  std::unique_ptr<State> state_;
};

/// Makes the calling thread fit to create or run library primitives as a lane does: one OpenMP thread,
/// denormals kept. Called by every thread that does either.
void prepare_compute_thread();

/// A few pause instructions, then yields, then short sleeps: for waiting on an atomic. `spins` is the
/// caller's counter, 0 at the start of a wait. Bounded waiting is the caller's business.
void relax(unsigned& spins) noexcept;

}  // namespace lockstep
