#include "comm/sync/parameter_exchange.h"

#include <algorithm>
#include <cstring>

#include "comm/sync/sync_base.h"
#include "core/error.h"
#include "core/flight_recorder.h"
#include "device/lane_pool.h"

namespace lockstep {
ParameterExchange::ParameterExchange(Communicator& comm, const BucketPlan& plan, SyncWindow& window,
                                     bool sharded)
    : comm_(comm), window_(window), sharded_(sharded && comm.size() > 1) {
  blocks_before_ = {0};
  if (!sharded_) return;
  const Topology& t = comm.topology();
  float* mine = window.parameters(t.rank);
  const auto floats = [&](Range r) { return std::span(mine + r.begin, static_cast<std::size_t>(r.size())); };
  for (std::int64_t b = 0; b < plan.buckets(); ++b) {
    for (int position = 0; position < t.size; ++position) {
      const int owner = plan.owner_at(b, position);
      const Range range = plan.chunk(b, owner);
      if (range.size() == 0) continue;
      const int home = t.group_of[static_cast<std::size_t>(owner)];
      if (owner == t.rank) {
        for (int g = 0; g < t.groups(); ++g) {
          if (g == home) continue;
          outgoing_.append(
              comm.make_send(std::as_bytes(floats(range)), plan.carrier(b, owner, g), tag_parameters));
          sent_bytes_ += range.size() * static_cast<std::int64_t>(sizeof(float));
        }
        continue;
      }
      const int holder = plan.holder(b, owner, t.group());
      if (holder == t.rank) {
        incoming_.append(comm.make_receive(std::as_writable_bytes(floats(range)), owner, tag_parameters));
      } else {
        fetches_.push_back({range, b, holder, home != t.group()});
        window_bytes_ += range.size() * static_cast<std::int64_t>(sizeof(float));
      }
    }
    incoming_end_.push_back(incoming_.size());
  }
  // What the group's ranks own is there first; what comes by message is fetched after it.
  std::stable_partition(fetches_.begin(), fetches_.end(), [](const Fetch& f) { return !f.carried; });
  for (const Fetch& f : fetches_) blocks_before_.push_back(blocks_before_.back() + blocks_of(f.range));
}

bool ParameterExchange::gathered_by_group() const {
  if (!sharded_) return true;
  const Topology& t = comm_.topology();
  const int first = t.rank - t.local_rank();
  for (int r = first; r < first + t.group_size(t.group()); ++r) {
    if (!window_.counters(r).gathered.reached(publication_)) return false;
  }
  return true;
}

template <class Condition>
void ParameterExchange::wait_until(Condition&& arrived, bool driver) {
  if (arrived()) return;
  unsigned spins = 0;
  const PeerWait waiting(comm_.recorder());
  while (!arrived()) {
    if (driver) {
      drive();
      comm_.poll();
    } else if (failed_.load(std::memory_order_relaxed)) {
      throw CommError("another lane of this rank has found a failed peer");
    }
    relax(spins);
  }
}

void ParameterExchange::publish() {
  if (!sharded_) return;
  // Messages are received into memory from which peers may still be copying the last publication.
  wait_until([&] { return gathered_by_group(); }, true);
  ++publication_;
  window_.counters(comm_.rank()).updated.publish(publication_);
  outgoing_.rewind();
  incoming_.rewind();
  incoming_.start_until(incoming_.size());
  outgoing_.start_until(outgoing_.size());
  next_arrival_ = 0;
}

void ParameterExchange::drive() {
  if (!outgoing_.done()) outgoing_.drive();
  if (!incoming_.done()) incoming_.drive();
  const auto buckets = static_cast<std::int64_t>(incoming_end_.size());
  while (next_arrival_ < buckets &&
         incoming_.completed() >= incoming_end_[static_cast<std::size_t>(next_arrival_)]) {
    window_.arrived(comm_.rank(), next_arrival_++).publish(publication_);
  }
}

void ParameterExchange::fetch(const Fetch& f, Range part, bool driver) {
  const SharedCounter& there =
      f.carried ? window_.arrived(f.holder, f.bucket) : window_.counters(f.holder).updated;
  wait_until([&] { return there.reached(publication_); }, driver);
  std::memcpy(window_.parameters(comm_.rank()) + part.begin, window_.parameters(f.holder) + part.begin,
              static_cast<std::size_t>(part.size()) * sizeof(float));
}

void ParameterExchange::gather(int lane, int lanes) {
  if (!sharded_) return;
  const bool driver = lane == 0;
  try {
    const std::int64_t begin = blocks_before_.back() * lane / lanes;
    const std::int64_t end = blocks_before_.back() * (lane + 1) / lanes;
    auto i = static_cast<std::size_t>(std::upper_bound(blocks_before_.begin(), blocks_before_.end(), begin) -
                                      blocks_before_.begin() - 1);
    if (driver) drive();
    for (; i < fetches_.size() && blocks_before_[i] < end; ++i) {
      const Fetch& f = fetches_[i];
      const std::int64_t from = std::max(begin, blocks_before_[i]) - blocks_before_[i];
      const std::int64_t to = std::min(end, blocks_before_[i + 1]) - blocks_before_[i];
      fetch(
          f,
          {f.range.begin + from * block_elements, std::min(f.range.begin + to * block_elements, f.range.end)},
          driver);
      if (driver) drive();
    }
    if (driver) {
      const auto buckets = static_cast<std::int64_t>(incoming_end_.size());
      wait_until([&] { return outgoing_.done() && incoming_.done() && next_arrival_ == buckets; }, true);
    }
  } catch (...) {
    failed_.store(true, std::memory_order_relaxed);
    throw;
  }
  if (lanes_done_.fetch_add(1, std::memory_order_acq_rel) + 1 == lanes) {
    lanes_done_.store(0, std::memory_order_relaxed);
    window_.counters(comm_.rank()).gathered.publish(publication_);
  }
}

}  // namespace lockstep
