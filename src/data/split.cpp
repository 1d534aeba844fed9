#include "data/split.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <utility>

#include "core/error.h"
#include "core/numerics/permutation.h"

namespace lockstep {

namespace {

std::int64_t share_of(std::int64_t n, double fraction, const char* key) {
  if (!(fraction >= 0 && fraction < 1)) {
    throw ConfigError(fmt::format("{} = {} is no share: it must be at least 0 and below 1", key, fraction));
  }
  if (fraction == 0) return 0;
  const auto share = static_cast<std::int64_t>(std::floor(static_cast<double>(n) * fraction + 1e-6));
  if (share == 0) {
    throw ConfigError(
        fmt::format("{} = {} of {} samples is not one sample: raise it, or set it to 0", key, fraction, n));
  }
  return share;
}

}  // namespace

Subset::Subset(std::shared_ptr<const Dataset> base, std::vector<std::int64_t> indices, std::string name)
    : base_(std::move(base)), indices_(std::move(indices)), name_(std::move(name)) {
  for (const std::int64_t i : indices_)
    require(i >= 0 && i < base_->size(), "a subset reaches beyond its base");
}

std::int64_t Subset::at(std::int64_t index) const {
  require(index >= 0 && index < size(), "sample index outside its subset");
  return indices_[static_cast<std::size_t>(index)];
}

void Subset::check(std::span<const std::int64_t> samples) const {
  for (const std::int64_t sample : samples) {
    if (sample < 0) continue;
    const std::int64_t in_base = at(sample);
    base_->check({&in_base, 1});
  }
}

std::string Subset::describe() const {
  return fmt::format("{} ({} of {})", name_, indices_.size(), base_->describe());
}

SplitSizes split_sizes(std::int64_t n, const SplitRequest& request) {
  SplitSizes sizes;
  sizes.validation = share_of(n, request.validation_fraction, "data.validation_fraction");
  sizes.test = share_of(n, request.test_fraction, "data.test_fraction");
  sizes.train = n - sizes.validation - sizes.test;
  if (sizes.train < 1) {
    throw ConfigError(fmt::format(
        "data.validation_fraction = {} and data.test_fraction = {} leave nothing of {} samples to "
        "train on: lower them",
        request.validation_fraction, request.test_fraction, n));
  }
  return sizes;
}

SplitParts split_dataset(std::shared_ptr<const Dataset> file, const SplitRequest& request) {
  if (request.limit < 0)
    throw ConfigError(fmt::format("data.limit = {} is negative; 0 means all samples", request.limit));
  const std::int64_t n = file->size();
  const SplitSizes sizes = split_sizes(n, request);
  SplitParts parts;
  const std::int64_t kept = request.limit == 0 ? sizes.train : std::min(request.limit, sizes.train);
  if (kept == n) {
    parts.train = std::move(file);
    return parts;
  }
  const Permutation order(random_key(request.seed, Purpose::split, 0, 0), static_cast<std::uint64_t>(n));
  const auto part = [&](std::int64_t begin, std::int64_t count,
                        const char* name) -> std::shared_ptr<const Dataset> {
    std::vector<std::int64_t> indices(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
      indices[static_cast<std::size_t>(i)] =
          static_cast<std::int64_t>(order(static_cast<std::uint64_t>(begin + i)));
    }
    return std::make_shared<Subset>(file, std::move(indices), name);
  };
  parts.train = part(0, kept, "training split");
  if (sizes.validation > 0) parts.validation = part(sizes.train, sizes.validation, "validation split");
  if (sizes.test > 0) parts.test = part(sizes.train + sizes.validation, sizes.test, "test split");
  return parts;
}

}  // namespace lockstep
