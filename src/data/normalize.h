#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/shape.h"
#include "data/dataset.h"

namespace lockstep {

/// How a field (of inputs) becomes what the model sees: per group (a channel of C x H x W samples, a feature
/// of flat ones)
///   y = float32((x / divisor - mean) / deviation), computed in float64 in this order;
/// and how targets become what the model is to give, where that is asked for:
///   y = float32((t - target mean) / target deviation).
/// Fitted on the training split alone and stored with the run.
class Normalizer {
 public:
  enum class Kind { none, unit, standard };

  Normalizer() = default;

  /// `method` is data.normalize:
  ///   none      y = x
  ///   unit      divisor 255, mean 0, deviation 1
  ///   standard  mean and deviation (the population's) of x over `train`, per group; of x/255 for byte images
  ///   auto      standard, but none for data that is made (`synthetic`)
  /// A group that is constant, or whose values differ by rounding alone (is_rounding()), gets deviation 1, or
  /// the size of its largest value where that is above 1. Sums run in float64 in the order of samples, on one
  /// thread, so that the result does not depend on ranks or threads. Another method is a ConfigError.
  static Normalizer fit(const std::string& method, const Dataset& train, bool synthetic = false);

  /// Learns the mean and deviation of each target over `train`: data.scale_targets = standard. Rules as
  /// above.
  void fit_targets(const Dataset& train);

  /// Reads what to_json() wrote; every float64 comes back as the same bits. Otherwise InputError; `origin`
  /// names it.
  static Normalizer from_json(const std::string& text, const std::string& origin);
  std::string to_json() const;

  Kind kind() const noexcept { return kind_; }
  double divisor() const noexcept { return divisor_; }
  /// (groups), empty unless standard.
  const std::vector<double>& mean() const noexcept { return mean_; }
  const std::vector<double>& deviation() const noexcept { return deviation_; }
  /// (target width) each, empty where targets are taken as they stand.
  const std::vector<double>& target_mean() const noexcept { return target_mean_; }
  const std::vector<double>& target_deviation() const noexcept { return target_deviation_; }
  bool scales_targets() const noexcept { return !target_mean_.empty(); }
  /// What the model is to give for target number `column`.
  float scaled_target(double target, std::size_t column) const;
  /// What the model gave for target number `column`, in the units of the data.
  double in_units_of_data(float output, std::size_t column) const;
  /// A raw value of `group` as the model sees it; neither NaN nor infinite where the result fits.
  float normalized(double value, std::size_t group) const;
  /// "standard, 1 channel: mean 0.286, deviation 0.353"
  std::string describe() const;

  /// Whether samples of this shape, and targets of this width (0: none), can be normalised: InputError
  /// otherwise.
  void check(const Shape& sample_shape, std::int64_t target_width = 0) const;

  friend bool operator==(const Normalizer&, const Normalizer&) = default;

 private:
  friend class NormalizedField;
  Kind kind_ = Kind::none;
  double divisor_ = 1;
  std::vector<double> mean_;
  std::vector<double> deviation_;
  std::vector<double> target_mean_;
  std::vector<double> target_deviation_;
};

/// Whether float32 values between `low` and `high` differ by rounding alone: by at most four units of
/// rounding (2^-23) of the larger one's size, or by less than the smallest normal float32.
bool is_rounding(float low, float high);

}  // namespace lockstep
