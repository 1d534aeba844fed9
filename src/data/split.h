#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace lockstep {

/// Some samples of another data set, in an order of their own.
class Subset final : public Dataset {
 public:
  /// `indices` into `base`. `name`: "training split".
  Subset(std::shared_ptr<const Dataset> base, std::vector<std::int64_t> indices, std::string name);

  std::int64_t size() const override { return static_cast<std::int64_t>(indices_.size()); }
  std::span<const Field> fields() const override { return base_->fields(); }
  void read(std::size_t field, std::int64_t index, std::span<std::byte> out) const override {
    base_->read(field, at(index), out);
  }
  std::span<const std::byte> view(std::size_t field, std::int64_t index) const override {
    return base_->view(field, at(index));
  }
  std::int64_t length(std::size_t field, std::int64_t index) const override {
    return base_->length(field, at(index));
  }
  void check(std::span<const std::int64_t> samples) const override;
  std::string describe() const override;
  std::string where(std::int64_t index) const override { return base_->where(at(index)); }

  /// Of the samples, in the base.
  const std::vector<std::int64_t>& indices() const noexcept { return indices_; }

 private:
  std::int64_t at(std::int64_t index) const;
  std::shared_ptr<const Dataset> base_;
  std::vector<std::int64_t> indices_;
  std::string name_;
};

/// What data.validation_fraction, data.test_fraction and data.limit ask for.
struct SplitRequest {
  double validation_fraction = 0;
  double test_fraction = 0;
  std::int64_t limit = 0;  ///< 0: all
  std::uint64_t seed = 0;
};

struct SplitSizes {
  std::int64_t train = 0;  ///< before the limit
  std::int64_t validation = 0;
  std::int64_t test = 0;
};

/// Of n samples, floor(n * fraction) go to validation and to test, the rest to training; a product that
/// misses a whole number by less than a millionth counts as that number, so that 0.29 of 100 is 29.
/// ConfigError: a fraction outside [0, 1), one above 0 that comes to no sample, or a training split without
/// samples.
SplitSizes split_sizes(std::int64_t n, const SplitRequest& request);

/// The parts; validation and test are null where their fraction is 0.
struct SplitParts {
  std::shared_ptr<const Dataset> train;
  std::shared_ptr<const Dataset> validation;
  std::shared_ptr<const Dataset> test;
};

/// Divides a training file by the keyed permutation of (seed, Purpose::split): positions [0, train) are the
/// training split, then validation, then test; so the parts are disjoint and cover the file. data.limit keeps
/// the first samples of the training split in this order. With neither fraction nor limit the training split
/// is the file in its own order.
SplitParts split_dataset(std::shared_ptr<const Dataset> file, const SplitRequest& request);

}  // namespace lockstep
