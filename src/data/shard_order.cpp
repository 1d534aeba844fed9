#include "data/shard_order.h"

#include <algorithm>

#include "core/error.h"
#include "core/numerics/philox.h"

namespace lockstep {

ShardedEpoch::ShardedEpoch(const ShardWindows& shards, std::uint64_t seed, std::int64_t epoch) {
  require(!shards.sizes.empty() && shards.window >= 1, "an order of no files, or of windows of none");
  const auto key = [&](std::size_t op) {
    return random_key(seed, Purpose::shuffle, static_cast<std::uint64_t>(epoch),
                      static_cast<std::uint32_t>(op));
  };
  std::vector<std::int64_t> begins;  // of each file in the set
  std::int64_t samples = 0;
  for (const std::int64_t size : shards.sizes) {
    require(size >= 1, "a file without samples in an order");
    begins.push_back(samples);
    samples += size;
  }
  const std::size_t count = shards.sizes.size();
  const Permutation order(key(1), count);
  std::int64_t position = 0;
  for (std::size_t first = 0; first < count;) {
    const auto last = static_cast<std::size_t>(
        std::min(static_cast<std::int64_t>(count), static_cast<std::int64_t>(first) + shards.window));
    const std::int64_t begin = position;
    for (std::size_t place = first; place < last; ++place) {
      const auto file = static_cast<std::size_t>(order(place));
      files_.push_back({position, begins[file]});
      position += shards.sizes[file];
    }
    windows_.push_back(
        {begin, first, Permutation(key(2 + windows_.size()), static_cast<std::uint64_t>(position - begin))});
    first = last;
  }
}

std::int64_t ShardedEpoch::sample(std::int64_t position) const noexcept {
  const auto begins_after = [](std::int64_t at, const auto& part) { return at < part.begin; };
  const Window& window = *(std::upper_bound(windows_.begin(), windows_.end(), position, begins_after) - 1);
  const std::int64_t mixed =
      window.begin +
      static_cast<std::int64_t>(window.order(static_cast<std::uint64_t>(position - window.begin)));
  const File& file = *(std::upper_bound(files_.begin() + static_cast<std::ptrdiff_t>(window.first),
                                        files_.end(), mixed, begins_after) -
                       1);
  return file.sample + (mixed - file.begin);
}

}  // namespace lockstep
