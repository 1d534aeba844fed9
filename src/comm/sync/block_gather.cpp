#include "comm/sync/block_gather.h"

#include <algorithm>
#include <string>

#include "core/numerics/tree.h"
#include "core/wire.h"

namespace lockstep {

namespace {

std::vector<std::int64_t> blocks_of(std::span<const Range> shard) {
  std::vector<std::int64_t> blocks;
  for (const Range& range : shard)
    for (std::int64_t e = range.begin; e < range.end; e += block_elements)
      blocks.push_back(e / block_elements);
  return blocks;
}

}  // namespace

BlockGather::BlockGather(Communicator& comm, std::span<const Range> shard)
    : BlockGather(comm, blocks_of(shard)) {}

BlockGather::BlockGather(Communicator& comm, const std::vector<std::int64_t>& mine) : comm_(comm) {
  std::size_t longest = 0;
  for (const std::string& theirs : comm.all_gather_text(WireWriter().add(mine).text())) {
    blocks_.push_back(WireReader(theirs).get<std::vector<std::int64_t>>());
    longest = std::max(longest, blocks_.back().size());
  }
  mine_.assign(longest, 0.0);
  all_.assign(longest * static_cast<std::size_t>(comm.size()), 0.0);
}

void BlockGather::run(std::span<double> values) {
  const auto& own = blocks_[static_cast<std::size_t>(comm_.rank())];
  for (std::size_t i = 0; i < own.size(); ++i) mine_[i] = values[static_cast<std::size_t>(own[i])];
  comm_.all_gather(std::as_bytes(std::span(mine_)), std::as_writable_bytes(std::span(all_)));
  for (std::size_t r = 0; r < blocks_.size(); ++r)
    for (std::size_t i = 0; i < blocks_[r].size(); ++i)
      values[static_cast<std::size_t>(blocks_[r][i])] = all_[r * mine_.size() + i];
}

}  // namespace lockstep
