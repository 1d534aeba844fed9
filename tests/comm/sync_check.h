#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/sync/gradient_sync.h"

namespace lockstep::test {

/// One combination of everything that must not change a bit.
struct SyncCase {
  std::int64_t elements = 10007;
  std::int64_t slices = 4;
  std::int64_t bucket_elements = 0;
  bool overlap = true;
  bool sharded = false;
  Reduction reduction = Reduction::ordered;
  int steps = 3;
  int lanes = 1;                  ///< for gathering parameters
  std::int64_t flip = -1;         ///< the slice of which one gradient has the wrong sign
  std::int64_t flip_at = 0;       ///< which one
  std::int64_t infinite_at = -1;  ///< the element of which slice 0 has an infinite gradient
  std::string text() const;
};

/// The gradient of one slice: a function of (step, slice, element) alone, of wildly different magnitudes, so
/// that another order of the additions gives other bits.
float slice_gradient(std::int64_t step, std::int64_t slice, std::int64_t element);

/// The element of which the slice has the largest gradient in step 1, so that its sign surely shows in the
/// total.
std::int64_t loudest_element(const SyncCase& c, std::int64_t slice);

/// The sum of the gradients of all slices along the canonical tree, by recursion; the oracle.
std::vector<float> direct_totals(const SyncCase& c, std::int64_t step);

/// (all) Runs the steps of `c` as a training loop would and holds every total, mark and parameter against
/// the direct computation. Returns what is wrong on this rank, or an empty text.
std::string check_sync(Communicator& comm, const SyncCase& c, Timeline* timeline = nullptr);

}  // namespace lockstep::test
