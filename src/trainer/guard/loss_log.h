#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "model/plan/executor.h"
#include "trainer/step/step_times.h"

namespace lockstep {

/// Sums over all slices of one step (or one batch of an evaluation).
struct StepSums {
  std::int64_t step = 0;
  double loss = 0;  ///< not divided
  double correct = 0;
  double weight = 0;   ///< what the loss is divided by: of most losses samples
  double counted = 0;  ///< places that may be correct
};

/// Keeps each slice's result on its rank and exchanges many steps at once, so that a step needs no collective
/// of its own. Sums run along the canonical tree over slices in float64: the same bits at any placement.
class LossLog {
 public:
  /// Room for `capacity` steps between two flushes; equal on every rank. Memory is taken here.
  LossLog(Communicator& comm, std::int64_t slices, std::int64_t capacity);
  bool full() const { return room() == 0; }
  /// How many more steps can be recorded before a flush.
  std::size_t room() const { return capacity_ - steps_.size(); }
  /// `mine`: one result per slice of this rank. Not when full().
  void record(std::int64_t step, std::span<const SliceResult> mine);
  /// (all) The sums of the steps recorded since the last flush, in order; equal on every rank, valid until
  /// the next record().
  /// `times` of this rank go along: those of all ranks are in times() until the next flush that had something
  /// to exchange.
  std::span<const StepSums> flush(const RankTimes& times = {});
  /// By rank; their steps are 0 before the first flush.
  std::span<const RankTimes> times() const { return times_; }

 private:
  Communicator& comm_;
  std::int64_t slices_;
  std::size_t capacity_;
  std::size_t longest_;  // slices of the rank that has most
  std::vector<std::int64_t> steps_;
  // Rows of results, and behind the last row the times, in as many places as their bytes take.
  std::vector<SliceResult> mine_;  // (capacity, longest) + times
  std::vector<SliceResult> all_;   // (ranks) of the same
  std::vector<SliceResult> in_order_;
  std::vector<StepSums> sums_;
  std::vector<RankTimes> times_;  // (ranks)
};

}  // namespace lockstep
