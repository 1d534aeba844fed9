#include "trainer/evaluate/ordered_sums.h"

#include <algorithm>

#include "comm/sync/gradient_sync.h"
#include "core/error.h"
#include "core/numerics/tree.h"

namespace lockstep {
namespace {

constexpr std::size_t most_numbers = 1 << 14;  // of this rank's between two exchanges

}  // namespace

OrderedSums::OrderedSums(Communicator& comm, std::int64_t slices, std::int64_t width)
    : comm_(comm),
      slices_(slices),
      width_(static_cast<std::size_t>(width)),
      longest_(static_cast<std::size_t>(slices_of_rank(slices, 0, comm.size()).size())) {
  require(width >= 1 && slices >= 1, "OrderedSums: nothing to sum");
  for (int r = 1; r < comm.size(); ++r)
    longest_ = std::max(longest_, static_cast<std::size_t>(slices_of_rank(slices, r, comm.size()).size()));
  capacity_ = std::max<std::size_t>(1, most_numbers / (longest_ * width_));
  mine_.resize(capacity_ * longest_ * width_);
  all_.resize(mine_.size() * static_cast<std::size_t>(comm.size()));
  totals_.assign(width_, 0.0);
}

void OrderedSums::add(std::span<const double> mine) {
  require(mine.size() <= longest_ * width_, "OrderedSums: too many slices");
  std::copy(mine.begin(), mine.end(),
            mine_.begin() + static_cast<std::ptrdiff_t>(batches_ * longest_ * width_));
  if (++batches_ == capacity_) exchange();
}

std::vector<double> OrderedSums::totals() {
  if (batches_ > 0) exchange();
  return totals_;
}

void OrderedSums::exchange() {
  const std::size_t used = batches_ * longest_ * width_;
  comm_.all_gather(
      std::as_bytes(std::span(mine_).first(used)),
      std::as_writable_bytes(std::span(all_).first(used * static_cast<std::size_t>(comm_.size()))));
  std::vector<double> in_order(static_cast<std::size_t>(slices_));
  for (std::size_t b = 0; b < batches_; ++b) {
    for (std::size_t k = 0; k < width_; ++k) {
      for (int r = 0; r < comm_.size(); ++r) {
        const Node held = slices_of_rank(slices_, r, comm_.size());
        const double* from = all_.data() + static_cast<std::size_t>(r) * used + b * longest_ * width_ + k;
        for (std::int64_t s = held.begin; s < held.end; ++s)
          in_order[static_cast<std::size_t>(s)] = from[static_cast<std::size_t>(s - held.begin) * width_];
      }
      totals_[k] += tree_sum(in_order.data(), slices_, [](double a, double b2) { return a + b2; });
    }
  }
  batches_ = 0;
}

}  // namespace lockstep
