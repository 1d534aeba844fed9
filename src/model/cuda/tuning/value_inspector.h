#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "model/cuda/kernels/numbers.h"
#include "model/cuda/plan/step_program.h"

namespace lockstep::cuda {

/// A machine's memory (model/cuda/run/engine.h) in the host's, for those who look at what is computed. The
/// slow way: the host waits for every piece. The compute stream must not be captured meanwhile.
template <class Machine>
class ValueInspector {
 public:
  /// `machine` must outlive it.
  explicit ValueInspector(Machine& machine) : machine_(machine) {}

  /// Pinned, valid until the next call.
  std::span<float> see(const float* from, std::int64_t elements) {
    const auto n = static_cast<std::size_t>(elements);
    return {reinterpret_cast<float*>(fetch(from, n * sizeof(float))), n};
  }
  /// Elements of type T as float32.
  template <class T>
  std::vector<float> see_as_floats(const std::byte* from, std::int64_t elements) {
    std::vector<float> out(static_cast<std::size_t>(elements));
    const auto* seen = reinterpret_cast<const T*>(fetch(from, out.size() * sizeof(T)));
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = load(seen[i]);
    return out;
  }
  /// What see() has given, back to where it lay.
  void put_back(float* to, std::span<const float> seen) {
    machine_.copy_in(to, seen.data(), seen.size_bytes(), Lane::compute);
    machine_.finish();
  }

 private:
  std::byte* fetch(const void* from, std::size_t bytes) {
    if (bytes > bytes_) {
      pinned_ = machine_.allocate_pinned(bytes);
      bytes_ = bytes;
    }
    machine_.copy_out(pinned_, from, bytes, Lane::compute);
    machine_.finish();
    return pinned_;
  }

  Machine& machine_;
  std::byte* pinned_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace lockstep::cuda
