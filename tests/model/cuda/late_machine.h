#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "core/error.h"
#include "model/cuda/host_machine.h"

namespace lockstep::test {

/// The streams of a GPU, played by the host: what is enqueued is carried out when the host waits, in any
/// order that the events allow, and so late or so early as `Order` says. Where an event is missing, something
/// reads what was not written yet, or was overwritten. One thread.
class LateStreams {
 public:
  enum class Order {
    at_random,      ///< any lane's turn, and now and then before the host waits
    uploads_first,  ///< input comes as early as it may
    uploads_last,   ///< and as late
    at_once  ///< all as soon as it is enqueued, and only what the host reads comes when it waits: for ranks
             ///< whose hosts wait for each other elsewhere, where these streams would stand still
  };
  static constexpr int compute = 0, upload = 1, download = 2, exchange = 3, lanes = 4;

  explicit LateStreams(Order order, unsigned seed = 1) : order_(order), random_(seed) {}
  static int lane_of(cuda::Lane lane) {
    return lane == cuda::Lane::compute ? compute : lane == cuda::Lane::upload ? upload : download;
  }

  int make_event() {
    events_.emplace_back();
    return static_cast<int>(events_.size()) - 1;
  }
  void enqueue(int lane, std::function<void()> work) { call({Kind::work, lane, -1, std::move(work)}); }
  void record(int event, int lane) { call({Kind::record, lane, event, {}}); }
  void wait(int event, int lane) { call({Kind::wait, lane, event, {}}); }
  /// The host waits; counted where the device was not so far.
  void host_wait(int event) {
    refuse_in_capture("the host waits for an event");
    require(at(event).recorded > 0, "an event is waited for, not recorded");
    if (done(event)) return;
    ++host_waits;
    run_until([&] { return done(event); });
  }
  bool reached(int event) {
    refuse_in_capture("the host asks for an event");
    if (!done(event)) run_one();
    if (done(event)) land();
    return done(event);
  }
  void finish() {
    refuse_in_capture("the host waits");
    ++finishes;
    run_until([&] { return queues_[compute].empty(); });
    land();
  }
  /// A copy to the host's memory.
  void fetch(int lane, void* to, const void* from, std::size_t bytes) {
    if (order_ != Order::at_once) {
      enqueue(lane, [=] { std::memcpy(to, from, bytes); });
      return;
    }
    const auto* begin = static_cast<const std::byte*>(from);
    landing_.push_back({to, {begin, begin + bytes}});
  }
  bool idle() const {
    return std::all_of(queues_.begin(), queues_.end(), [](const auto& q) { return q.empty(); });
  }

  /// What `body` enqueues, with all arguments as they are now, to be launched any number of times.
  struct Captured {
    std::vector<std::function<void()>> calls;
  };
  template <class Body>
  Captured capture(Body body) {
    require(capturing_ == nullptr, "a capture within a capture");
    Captured captured;
    capturing_ = &captured;
    recorded_in_capture_.clear();
    body();
    capturing_ = nullptr;
    return captured;
  }
  bool capturing() const { return capturing_ != nullptr; }
  void launch(const Captured& captured) {
    ++launches;
    for (const auto& call : captured.calls) call();
  }
  void refuse_in_capture(const char* what) const {
    if (capturing_ != nullptr) throw InternalError(std::string("while a graph is captured, ") + what);
  }

  std::int64_t finishes = 0, host_waits = 0;
  std::int64_t captures = 0, launches = 0;  ///< of graphs

 private:
  enum class Kind { work, record, wait };
  struct Call {
    Kind kind;
    int lane, event;
    std::function<void()> work;
  };
  struct Op {
    Call call;
    std::uint64_t number;  ///< of the record that is made or waited for
  };
  struct Event {
    std::uint64_t recorded = 0, done = 0;
  };

  void land() {
    for (const auto& [to, bytes] : landing_) std::memcpy(to, bytes.data(), bytes.size());
    landing_.clear();
  }
  Event& at(int event) { return events_.at(static_cast<std::size_t>(event)); }
  bool done(int event) { return at(event).done >= at(event).recorded; }

  void call(Call c) {
    if (capturing_ != nullptr) {
      if (c.kind == Kind::record) recorded_in_capture_.insert(c.event);
      if (c.kind == Kind::wait && recorded_in_capture_.count(c.event) == 0)
        throw InternalError("while a graph is captured, a stream waits for an event from outside of it");
      capturing_->calls.push_back([this, c] { call(c); });
      return;
    }
    std::uint64_t number = 0;
    if (c.kind == Kind::record) number = ++at(c.event).recorded;
    if (c.kind == Kind::wait) {
      number = at(c.event).recorded;
      if (number == 0) throw InternalError("an event is waited for, not recorded");
    }
    const auto lane = static_cast<std::size_t>(c.lane);
    queues_[lane].push_back({std::move(c), number});
    while (order_ == Order::at_once && !idle()) run_one();
    if (order_ == Order::at_random && random_() % 64 == 0)
      for (unsigned n = random_() % 64; n > 0 && !idle(); --n) run_one();
  }

  bool runnable(std::size_t lane) {
    if (queues_[lane].empty()) return false;
    const Op& op = queues_[lane].front();
    return op.call.kind != Kind::wait || at(op.call.event).done >= op.number;
  }
  void run_one() {
    std::array<std::size_t, lanes> able{};
    std::size_t n = 0;
    for (std::size_t lane = 0; lane < lanes; ++lane)
      if (runnable(lane)) able[n++] = lane;
    if (n == 0) throw InternalError("the streams wait for each other");
    std::size_t lane = able[random_() % n];
    const bool uploads = std::find(able.begin(), able.begin() + n, std::size_t{upload}) != able.begin() + n;
    if (uploads && order_ == Order::uploads_first) lane = upload;
    if (n > 1 && order_ == Order::uploads_last)
      while (lane == upload) lane = able[random_() % n];
    Op op = std::move(queues_[lane].front());
    queues_[lane].pop_front();
    if (op.call.kind == Kind::work) op.call.work();
    if (op.call.kind == Kind::record) at(op.call.event).done = std::max(at(op.call.event).done, op.number);
  }
  template <class Condition>
  void run_until(Condition there) {
    while (!there()) run_one();
  }

  Order order_;
  std::mt19937 random_;
  std::array<std::deque<Op>, lanes> queues_;
  std::vector<Event> events_;
  std::vector<std::pair<void*, std::vector<std::byte>>> landing_;
  Captured* capturing_ = nullptr;
  std::set<int> recorded_in_capture_;
};

/// A HostMachine on LateStreams, which the executor and the step share as on a GPU. With `graphs` a piece is
/// captured the second time, with its arguments, and launched from then on.
class LateMachine : public HostMachine {
 public:
  LateMachine(std::shared_ptr<LateStreams> streams, bool graphs)
      : streams_(std::move(streams)), graphs_(graphs) {}

  void copy_in(void* device, const void* pinned, std::size_t bytes, cuda::Lane lane) override {
    streams_->refuse_in_capture("the host's memory is read");
    streams_->enqueue(LateStreams::lane_of(lane), [=] { std::memcpy(device, pinned, bytes); });
  }
  void copy_out(void* pinned, const void* device, std::size_t bytes, cuda::Lane lane) override {
    streams_->refuse_in_capture("the host's memory is written");
    streams_->fetch(LateStreams::lane_of(lane), pinned, device, bytes);
  }
  void make_events(int n) override {
    for (int i = 0; i < n; ++i) events_.push_back(streams_->make_event());
  }
  void record(int event, cuda::Lane lane) override {
    streams_->record(number(event), LateStreams::lane_of(lane));
  }
  void wait(int event, cuda::Lane lane) override {
    streams_->wait(number(event), LateStreams::lane_of(lane));
  }
  void host_wait(int event) override { streams_->host_wait(number(event)); }
  bool reached(int event) override { return streams_->reached(number(event)); }
  void finish() override { streams_->finish(); }
  void make_marks(int n) override { marks_ = std::make_shared<Marks>(static_cast<std::size_t>(n)); }
  void mark(int which) override {
    streams_->refuse_in_capture("a time is noted");
    streams_->enqueue(LateStreams::compute, [marks = marks_, which] {
      marks->at(static_cast<std::size_t>(which)) = std::chrono::steady_clock::now();
    });
  }
  double seconds_between(int from, int to) const override {
    const auto passed = marks_->at(static_cast<std::size_t>(to)) - marks_->at(static_cast<std::size_t>(from));
    return std::chrono::duration<double>(passed).count();
  }

  void run(std::uint64_t key, const std::function<void()>& body) override {
    if (!graphs_) {
      body();
      return;
    }
    Piece& piece = pieces_[key];
    if (!piece.warm) {
      piece.warm = true;
      body();
      return;
    }
    if (piece.captured.calls.empty()) {
      piece.captured = streams_->capture(body);
      ++streams_->captures;
    }
    streams_->launch(piece.captured);
  }
  void forget() override { pieces_.clear(); }
  void carry_out(std::function<void()> work) override {
    streams_->enqueue(LateStreams::compute, std::move(work));
  }

 private:
  using Marks = std::vector<std::chrono::steady_clock::time_point>;
  struct Piece {
    bool warm = false;
    LateStreams::Captured captured;
  };
  int number(int event) const { return events_.at(static_cast<std::size_t>(event)); }

  std::shared_ptr<LateStreams> streams_;
  bool graphs_;
  std::vector<int> events_;
  std::shared_ptr<Marks> marks_;
  std::map<std::uint64_t, Piece> pieces_;
};

}  // namespace lockstep::test
