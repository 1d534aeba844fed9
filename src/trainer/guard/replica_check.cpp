#include "trainer/guard/replica_check.h"

#include <algorithm>
#include <fmt/format.h>

#include "core/block_hash.h"
#include "core/error.h"
#include "core/numerics/tree.h"
#include "trainer/step/flat_position.h"

namespace lockstep {
namespace {

constexpr std::size_t described_ranks = 4;  // each costs the exchange of a tensor

std::size_t blocks_of(std::size_t elements) {
  const auto block = static_cast<std::size_t>(block_elements);
  return (elements + block - 1) / block;
}

}  // namespace

Dissent dissent_of(std::span<const std::uint64_t> votes) {
  Dissent dissent;
  if (std::adjacent_find(votes.begin(), votes.end(), std::not_equal_to<>()) == votes.end()) {
    dissent.majority = 0;
    return dissent;
  }
  const auto majority = std::find_if(votes.begin(), votes.end(), [&](std::uint64_t vote) {
    return 2 * static_cast<std::size_t>(std::count(votes.begin(), votes.end(), vote)) > votes.size();
  });
  if (majority != votes.end()) dissent.majority = static_cast<int>(majority - votes.begin());
  for (std::size_t r = 0; r < votes.size(); ++r)
    if (majority == votes.end() || votes[r] != *majority) dissent.ranks.push_back(static_cast<int>(r));
  return dissent;
}

std::string ranks_text(std::span<const int> ranks, std::span<const std::string> hosts) {
  std::string text = ranks.size() == 1 ? "rank" : "ranks";
  for (std::size_t i = 0; i < ranks.size(); ++i)
    text += fmt::format("{} {} ({})",
                        i == 0                  ? ""
                        : i + 1 == ranks.size() ? " and"
                                                : ",",
                        ranks[i], hosts[static_cast<std::size_t>(ranks[i])]);
  return text;
}

ReplicaCheck::ReplicaCheck(TrainStep& step, bool sharded, bool repair, std::vector<std::string> hosts,
                           Communicator& comm, LanePool& lanes)
    : step_(step), repair_(repair), hosts_(std::move(hosts)), comm_(comm), lanes_(lanes) {
  require(hosts_.size() == static_cast<std::size_t>(comm.size()), "ReplicaCheck: one host per rank");
  const Range all{0, step.executor().layout().elements};
  buffers_.push_back({"", step.writable_parameters(), all});
  Optimizer& optimizer = step.writable_optimizer();
  for (std::size_t s = 0; !sharded && s < optimizer.state_names().size(); ++s)
    for (const Range& range : optimizer.shard())
      buffers_.push_back({"optimizer." + optimizer.state_names()[s] + ".", optimizer.state(s, range), range});
  std::size_t blocks = 0;
  for (const Buffer& buffer : buffers_) blocks += blocks_of(buffer.flat.size());
  hashes_.resize(blocks);
  votes_.resize(hosts_.size());
}

std::uint64_t ReplicaCheck::hash_mine() {
  lanes_.run([&](int lane) {
    const std::size_t lanes = static_cast<std::size_t>(lanes_.size()), me = static_cast<std::size_t>(lane);
    const std::size_t from = hashes_.size() * me / lanes, to = hashes_.size() * (me + 1) / lanes;
    std::size_t before = 0;
    for (const Buffer& buffer : buffers_) {
      const std::size_t count = blocks_of(buffer.flat.size());
      for (std::size_t h = std::max(from, before); h < std::min(to, before + count); ++h) {
        const std::size_t begin = (h - before) * static_cast<std::size_t>(block_elements);
        hashes_[h] = hash_floats(buffer.flat.subspan(
            begin, std::min(static_cast<std::size_t>(block_elements), buffer.flat.size() - begin)));
      }
      before += count;
    }
  });
  return hash_hashes(hashes_);
}

void ReplicaCheck::gather_votes() {
  const std::uint64_t mine = hash_mine();
  comm_.all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(votes_)));
}

std::string ReplicaCheck::describe(const Dissent& dissent) {
  const int reference = dissent.majority >= 0 ? dissent.majority : dissent.ranks.front();
  std::string text;
  std::size_t described = 0;
  for (const int rank : dissent.ranks) {
    if (rank == reference || described++ == described_ranks) continue;
    for (const Buffer& buffer : buffers_) {
      std::vector<float> whole(static_cast<std::size_t>(step_.executor().layout().elements));
      std::copy(buffer.flat.begin(), buffer.flat.end(), whole.begin() + buffer.range.begin);
      const auto difference = first_difference(comm_, step_.executor(), rank, reference, whole);
      if (!difference) continue;
      text += fmt::format("{}{}{} is {} on rank {} and {} on rank {}", text.empty() ? "" : "; ",
                          buffer.prefix, difference->text(), bits_text(difference->value), rank,
                          bits_text(difference->other), reference);
      break;
    }
  }
  return text.empty() ? "the difference lies in padding, which nothing reads" : "first difference: " + text;
}

void ReplicaCheck::copy_from(int rank) {
  (void)step_.writable_parameters();  // what is repaired here goes to the device
  for (const Buffer& buffer : buffers_) comm_.broadcast(std::as_writable_bytes(buffer.flat), rank);
}

std::string ReplicaCheck::run(std::int64_t steps) {
  if (comm_.size() == 1) return "";
  (void)step_.parameters();  // where a device holds them, the host's copies are brought up to date
  gather_votes();
  const Dissent dissent = dissent_of(votes_);
  if (!dissent.any()) return "";
  const std::string difference = describe(dissent);
  if (dissent.majority < 0)
    throw_on_all(comm_,
                 CommError(fmt::format(
                     "after step {} the replicas on {} differ, and there is no majority to tell who is "
                     "right; {}. Check "
                     "their memory and processors, and go on from the last checkpoint with --resume",
                     steps, ranks_text(dissent.ranks, hosts_), difference)));
  const std::string who = fmt::format("after step {} the replica on {} differs from that of the majority; {}",
                                      steps, ranks_text(dissent.ranks, hosts_), difference);
  if (!repair_)
    throw_on_all(
        comm_,
        CommError(
            who +
            ". Check the memory and processor there, and go on from the last checkpoint with --resume"));
  copy_from(dissent.majority);
  gather_votes();
  if (dissent_of(votes_).any())
    throw_on_all(comm_, CommError(who + ". It could not be repaired: it differs again at once"));
  return fmt::format("{}; repaired from rank {}", who, dissent.majority);
}

}  // namespace lockstep
