#include "trainer/evaluate/regression.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace lockstep {

RegressionScores::RegressionScores(Communicator& comm, std::int64_t slices, const Dataset& data,
                                   const Normalizer& normalizer)
    : data_(data),
      normalizer_(normalizer),
      column_(data, target_field),
      width_(column_.width()),
      sums_(comm, slices, 2 * static_cast<std::int64_t>(column_.width())),
      target_(width_) {}

void RegressionScores::add(std::span<const Batch> slices, std::span<const std::vector<float>> outputs) {
  mine_.assign(slices.size() * 2 * width_, 0.0);
  for (std::size_t s = 0; s < slices.size(); ++s) {
    double* sums = mine_.data() + s * 2 * width_;
    for (std::size_t row = 0; row < static_cast<std::size_t>(slices[s].valid); ++row) {
      column_.read(slices[s].samples[row], target_);
      for (std::size_t k = 0; k < width_; ++k) {
        const double error =
            normalizer_.in_units_of_data(outputs[s][row * width_ + k], k) - static_cast<double>(target_[k]);
        sums[2 * k] += std::abs(error);
        sums[2 * k + 1] += error * error;
      }
    }
  }
  sums_.add(mine_);
}

std::vector<TargetScore> RegressionScores::scores() {
  const std::vector<double> errors = sums_.totals();
  const auto count = static_cast<double>(data_.size());
  // Every rank holds all targets, and sums them in their own order: nothing is exchanged.
  std::vector<double> mean(width_), spread(width_), low(width_, INFINITY), high(width_, -INFINITY);
  for (std::int64_t i = 0; i < data_.size(); ++i) {
    column_.read(i, target_);
    for (std::size_t k = 0; k < width_; ++k) {
      const auto t = static_cast<double>(target_[k]);
      mean[k] += t;
      low[k] = std::min(low[k], t);
      high[k] = std::max(high[k], t);
    }
  }
  for (double& m : mean) m /= count;
  for (std::int64_t i = 0; i < data_.size(); ++i) {
    column_.read(i, target_);
    for (std::size_t k = 0; k < width_; ++k) {
      const double d = static_cast<double>(target_[k]) - mean[k];
      spread[k] += d * d;
    }
  }
  std::vector<TargetScore> scores(width_);
  for (std::size_t k = 0; k < width_; ++k) {
    const double squares = errors[2 * k + 1];
    scores[k].mae = errors[2 * k] / count;
    scores[k].rmse = std::sqrt(squares / count);
    scores[k].constant = low[k] == high[k];
    scores[k].r2 = scores[k].constant ? (squares == 0 ? 1.0 : 0.0) : 1 - squares / spread[k];
  }
  return scores;
}

TargetScore mean_of(std::span<const TargetScore> scores) {
  require(!scores.empty(), "there are no targets to take the mean of");
  if (scores.size() == 1) return scores[0];
  TargetScore all;
  double squares = 0;
  all.constant = true;
  for (const TargetScore& s : scores) {
    all.mae += s.mae;
    squares += s.rmse * s.rmse;
    all.r2 += s.r2;
    all.constant = all.constant && s.constant;
  }
  const auto n = static_cast<double>(scores.size());
  all.mae /= n;
  all.rmse = std::sqrt(squares / n);
  all.r2 /= n;
  return all;
}

}  // namespace lockstep
