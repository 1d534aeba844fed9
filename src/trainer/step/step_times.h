#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lockstep {

/// Where one step's time went on this rank, in seconds.
struct StepTimes {
  double step = 0;     ///< all of it, from asking for the batch to the new parameters
  double load = 0;     ///< waiting for the batch
  double compute = 0;  ///< forward and backward of this rank's slices
  double wait = 0;     ///< until gradients and parameters of the others were there, summing included
};

/// What a rank tells the others of its steps. Trivially copyable: it is sent as bytes.
struct RankTimes {
  double steps = 0;   ///< since this process began
  StepTimes sum;      ///< over them
  double window = 0;  ///< steps of the window that the medians are taken from; where 0 they mean nothing
  StepTimes median;   ///< of each part by itself
};

/// The times of this rank's steps. Allocates in the constructor only.
class StepTimesLog {
 public:
  /// The window holds the last `capacity` steps at most.
  explicit StepTimesLog(std::size_t capacity);
  void add(const StepTimes& times);
  RankTimes summary();
  void clear_window() { window_.clear(); }

 private:
  double median_of(double StepTimes::*part);
  std::size_t capacity_;
  std::vector<StepTimes> window_;
  std::size_t oldest_ = 0;  // of a full window
  std::vector<double> scratch_;
  StepTimes sum_;
  std::int64_t steps_ = 0;
};

}  // namespace lockstep
