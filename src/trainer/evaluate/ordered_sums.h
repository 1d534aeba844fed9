#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/communicator.h"

namespace lockstep {

/// Sums of `width` float64 numbers over all batches of an evaluation: along the canonical tree over the
/// slices of a batch, then batch by batch. So they are the same bits at any placement. Several batches are
/// exchanged at once.
class OrderedSums {
 public:
  OrderedSums(Communicator& comm, std::int64_t slices, std::int64_t width);
  /// (all) Adds a batch: `width` numbers for each slice of this rank, slice after slice.
  void add(std::span<const double> mine);
  /// (all) The sums of all that was added; equal on every rank.
  std::vector<double> totals();

 private:
  void exchange();
  Communicator& comm_;
  std::int64_t slices_;
  std::size_t width_;
  std::size_t longest_;   // slices of the rank that has most
  std::size_t capacity_;  // batches between two exchanges
  std::size_t batches_ = 0;
  std::vector<double> mine_;  // (capacity, longest, width)
  std::vector<double> all_;   // (ranks) of the same
  std::vector<double> totals_;
};

}  // namespace lockstep
