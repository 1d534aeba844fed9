#include "comm/mpi/node_gather.h"

#include <cstring>
#include <new>
#include <utility>

#include "core/error.h"
#include "device/lane_pool.h"

namespace lockstep {
namespace {

constexpr std::size_t head_bytes = NodeGather::region_bytes - 2 * NodeGather::capacity;

}  // namespace

NodeGather::NodeGather(std::unique_ptr<SharedRegion> region, int rank, int ranks)
    : region_(std::move(region)), rank_(rank), ranks_(ranks) {
  static_assert(sizeof(Head) <= head_bytes);
  require(region_->bytes() >= region_bytes, "NodeGather: the region is too small");
  // The region is zeroed, and peers may look before this rank is here: nothing is written.
}

NodeGather::Head& NodeGather::head(int rank) const {
  return *std::launder(reinterpret_cast<Head*>(region_->base(rank)));
}

std::byte* NodeGather::slot(int rank) const {
  return region_->base(rank) + head_bytes + entered_ % 2 * capacity;
}

void NodeGather::run(std::span<const std::byte> mine, std::span<std::byte> all,
                     const std::function<void()>& poll) {
  require(mine.size() <= capacity && all.size() == mine.size() * static_cast<std::size_t>(ranks_),
          "NodeGather::run: sizes do not fit");
  // Who is in gather n + 2, and writes into the slot of gather n, has left gather n + 1. All had entered that
  // one, and so had read what was in the slot.
  ++entered_;
  if (!mine.empty()) std::memcpy(slot(rank_), mine.data(), mine.size());
  head(rank_).entered.store(entered_, std::memory_order_release);
  for (int r = 0; r < ranks_; ++r) {
    unsigned spins = 0;
    while (head(r).entered.load(std::memory_order_acquire) < entered_) {
      poll();
      relax(spins);
    }
    if (!mine.empty())
      std::memcpy(all.data() + static_cast<std::size_t>(r) * mine.size(), slot(r), mine.size());
  }
}

}  // namespace lockstep
