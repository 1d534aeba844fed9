#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "data/dataset.h"
#include "data/normalize.h"
#include "model/plan/executor.h"
#include "trainer/evaluate/ordered_sums.h"

namespace lockstep {

/// How far predictions of one target are from what the data says, in the units of the data.
struct TargetScore {
  double mae = 0;   ///< mean of |prediction - target|
  double rmse = 0;  ///< root of the mean of (prediction - target)^2
  /// 1 - sum (prediction - target)^2 / sum (target - mean)^2, with the mean over the samples that are scored.
  /// Where all targets are equal: 1 if every prediction is met exactly, else 0 (as scikit-learn's r2_score).
  double r2 = 0;
  bool constant = false;  ///< all targets are equal
};

/// Errors summed over an evaluation, in float64 and in the canonical order: the same bits at any placement.
class RegressionScores {
 public:
  /// `data` and `normalizer` must outlive this.
  RegressionScores(Communicator& comm, std::int64_t slices, const Dataset& data,
                   const Normalizer& normalizer);
  /// (all) `outputs`: of every slice of this rank, (rows, targets), none of them NaN or infinite.
  void add(std::span<const Batch> slices, std::span<const std::vector<float>> outputs);
  /// (all) Per target.
  std::vector<TargetScore> scores();

 private:
  const Dataset& data_;
  const Normalizer& normalizer_;
  FieldColumn column_;
  std::size_t width_;
  OrderedSums sums_;
  std::vector<double> mine_;   // per slice and target: sum of |e|, sum of e^2
  std::vector<float> target_;  // of one sample
};

/// Over several targets: errors of all together, and the mean of their R^2.
TargetScore mean_of(std::span<const TargetScore> scores);

}  // namespace lockstep
