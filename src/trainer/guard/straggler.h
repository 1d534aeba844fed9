#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "trainer/step/step_times.h"

namespace lockstep {

/// Finds the rank that the others wait for. One rank has one.
///
/// A rank straggles when loading and computing take it `factor` times as long as the median of the other
/// ranks, both by the slice and by the step (a rank with two slices where others have one is not slow, nor is
/// one that cannot spread its only slice over its lanes), and that costs at least a tenth of the step. Single
/// hiccups do not count: medians over a window must show it, or else the sums of two windows in a row.
class StragglerWatch {
 public:
  /// `slices` and `hosts` by rank. `factor` 0: never.
  StragglerWatch(double factor, std::vector<std::int64_t> slices, std::vector<std::string> hosts);

  /// The times of all ranks, by rank, all up to the same step. `now`: seconds, rising. A sentence for the
  /// user when there is something new to say: of one rank not more than once in `repeat_seconds`.
  std::optional<std::string> look(std::span<const RankTimes> times, double now);

  static constexpr double repeat_seconds = 600;
  // What is shorter says too little: a few steps, or so short ones that the kernel's scheduler decides.
  static constexpr double least_steps = 10;
  static constexpr double least_seconds = 0.25;

 private:
  struct Slowness {
    std::size_t rank = 0;
    double times = 0;  ///< as slow as the median of the others, by the slice
    double own = 0;    ///< seconds a step
    double others = 0;
    double step = 0;
  };
  /// The slowest rank, when it is a straggler by these parts of the times.
  std::optional<Slowness> slowest(std::span<const RankTimes> times, bool by_median) const;
  /// The sums of the steps since the last verdict.
  std::vector<RankTimes> since_judged(std::span<const RankTimes> times) const;

  double factor_;
  std::vector<std::int64_t> slices_;
  std::vector<std::string> hosts_;
  std::vector<RankTimes> judged_;  // as they were at the last verdict, by rank
  std::optional<std::size_t> suspect_;
  std::vector<double> told_;  // when, by rank; negative: never
};

}  // namespace lockstep
