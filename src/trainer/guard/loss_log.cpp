#include "trainer/guard/loss_log.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "comm/sync/gradient_sync.h"
#include "core/error.h"
#include "core/numerics/tree.h"

namespace lockstep {
namespace {

static_assert(std::is_trivially_copyable_v<RankTimes>);
constexpr std::size_t times_places = (sizeof(RankTimes) + sizeof(SliceResult) - 1) / sizeof(SliceResult);

}  // namespace

LossLog::LossLog(Communicator& comm, std::int64_t slices, std::int64_t capacity)
    : comm_(comm),
      slices_(slices),
      capacity_(static_cast<std::size_t>(std::max<std::int64_t>(capacity, 1))),
      longest_(0) {
  for (int r = 0; r < comm.size(); ++r)
    longest_ = std::max(longest_, static_cast<std::size_t>(slices_of_rank(slices, r, comm.size()).size()));
  steps_.reserve(capacity_);
  mine_.resize(capacity_ * longest_ + times_places);
  all_.resize(mine_.size() * static_cast<std::size_t>(comm.size()));
  in_order_.resize(static_cast<std::size_t>(slices));
  sums_.reserve(capacity_);
  times_.resize(static_cast<std::size_t>(comm.size()));
}

void LossLog::record(std::int64_t step, std::span<const SliceResult> mine) {
  require(!full() && mine.size() <= longest_, "LossLog::record: full, or too many slices");
  std::copy(mine.begin(), mine.end(), mine_.begin() + static_cast<std::ptrdiff_t>(steps_.size() * longest_));
  steps_.push_back(step);
}

std::span<const StepSums> LossLog::flush(const RankTimes& times) {
  sums_.clear();
  const std::size_t results = steps_.size() * longest_;
  if (results == 0) return {};
  const std::size_t used = results + times_places;
  std::memcpy(static_cast<void*>(&mine_[results]), &times, sizeof times);
  comm_.all_gather(
      std::as_bytes(std::span(mine_).first(used)),
      std::as_writable_bytes(std::span(all_).first(used * static_cast<std::size_t>(comm_.size()))));
  for (std::size_t r = 0; r < times_.size(); ++r)
    std::memcpy(static_cast<void*>(&times_[r]), &all_[r * used + results], sizeof(RankTimes));
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    for (int r = 0; r < comm_.size(); ++r) {
      const Node held = slices_of_rank(slices_, r, comm_.size());
      const SliceResult* from = all_.data() + static_cast<std::size_t>(r) * used + i * longest_;
      std::copy_n(from, held.size(), in_order_.begin() + held.begin);
    }
    const SliceResult sum =
        tree_sum(in_order_.data(), slices_, [](const SliceResult& a, const SliceResult& b) {
          return SliceResult{a.loss + b.loss, a.correct + b.correct, a.weight + b.weight,
                             a.counted + b.counted};
        });
    sums_.push_back({steps_[i], sum.loss, sum.correct, sum.weight, sum.counted});
  }
  steps_.clear();
  return sums_;
}

}  // namespace lockstep
