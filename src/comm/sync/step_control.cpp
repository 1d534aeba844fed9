#include "comm/sync/step_control.h"

#include <new>

#include "core/error.h"
#include "core/flight_recorder.h"
#include "device/lane_pool.h"

namespace lockstep {
namespace {

constexpr int tag_control = 111;  // beside those of the gradient exchange, see sync_base.h

}  // namespace

StepControl::StepControl(Communicator& comm) : comm_(comm), region_(comm.allocate_shared(sizeof(Shown))) {
  const Topology& t = comm.topology();
  first_ = t.rank - t.local_rank();
  end_ = first_ + t.group_size(t.group());
  lag_ = t.groups() > 1 && t.groups() < t.size ? 1 : 0;
  new (region_->base(t.rank)) Shown;

  // Buffers first: messages keep their addresses.
  std::vector<int> senders;
  for (int g = 0; g < t.groups(); ++g) {
    if (g == t.group()) continue;
    const int begin = t.group_begin[static_cast<std::size_t>(g)];
    for (int i = t.local_rank(); i < t.group_size(g); i += end_ - first_) senders.push_back(begin + i);
    outgoing_.push_back(comm.make_send(std::as_bytes(std::span(&outgoing_word_, 1)),
                                       begin + t.local_rank() % t.group_size(g), tag_control));
  }
  incoming_words_.resize(senders.size());
  for (std::size_t i = 0; i < senders.size(); ++i)
    incoming_.push_back(comm.make_receive(std::as_writable_bytes(std::span(&incoming_words_[i], 1)),
                                          senders[i], tag_control));
  comm.barrier();  // peers look at the counters from here on
}

StepControl::Shown& StepControl::shown(int rank) const {
  return *std::launder(reinterpret_cast<Shown*>(region_->base(rank)));
}

template <class Condition>
void StepControl::wait_until(Condition&& arrived) {
  if (arrived()) return;
  const FlightScope scope(comm_.recorder(), Activity::message);
  unsigned spins = 0;
  while (!arrived()) {
    comm_.poll();
    relax(spins);
  }
}

void StepControl::post(std::uint64_t word) {
  ++step_;
  Shown& mine = shown(comm_.rank());
  mine.near[step_ % depth] = word;
  mine.near_step.store(step_, std::memory_order_release);
  outgoing_word_ = word;
  for (const auto& message : outgoing_) message->start();
}

std::uint64_t StepControl::collect() {
  require(shown(comm_.rank()).far_step.load(std::memory_order_relaxed) + 1 == step_,
          "StepControl::collect: post() comes first, once a step");
  // Receiving begins only here: what unwinds a step leaves no message that still writes into this object.
  for (const auto& message : incoming_) message->start();
  std::uint64_t far = 0;
  for (std::size_t i = 0; i < incoming_.size(); ++i) {
    wait_until([&] { return incoming_[i]->test(); });
    far |= incoming_words_[i];
  }
  for (const auto& message : outgoing_) wait_until([&] { return message->test(); });
  Shown& mine = shown(comm_.rank());
  mine.far[step_ % depth] = far;
  mine.far_step.store(step_, std::memory_order_release);

  // A peer that overwrites the words of step n is in step n + 4. It has then collected step n + 3, for which
  // it waited until this rank had shown those of step n + 2, after it had read those of step n.
  const std::uint64_t wanted = step_ - static_cast<std::uint64_t>(lag_);
  std::uint64_t all = far;
  if (lag_ > 0) all = 0;
  for (int r = first_; r < end_; ++r) {
    const Shown& theirs = shown(r);
    const auto& counter = lag_ > 0 ? theirs.far_step : theirs.near_step;
    wait_until([&] { return counter.load(std::memory_order_acquire) >= wanted; });
    if (wanted == 0) continue;
    all |= theirs.near[wanted % depth];
    if (lag_ > 0) all |= theirs.far[wanted % depth];
  }
  return all;
}

}  // namespace lockstep
