#include "comm/threads/thread_communicator.h"

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <fmt/format.h>
#include <mutex>
#include <new>
#include <numeric>
#include <thread>

#include "core/error.h"
#include "device/memory.h"

namespace lockstep {
namespace {

/// Thrown by a rank that waits for one that has failed.
class EchoError : public CommError {
 public:
  using CommError::CommError;
};

/// One end of a message: set complete by whoever posts the second end, under the hub's lock.
struct Post {
  std::byte* data = nullptr;
  std::size_t size = 0;
  int from = 0;
  int to = 0;
  int tag = 0;
  bool is_send = false;
  bool complete = true;
};

struct FreePages {
  void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{page_bytes()}); }
};
using Pages = std::unique_ptr<std::byte, FreePages>;

struct Hub {
  explicit Hub(int n) : ranks(n), entered(static_cast<std::size_t>(n)), parts(static_cast<std::size_t>(n)) {}
  int ranks;
  std::mutex mutex;
  std::condition_variable changed;
  std::atomic<bool> failed{false};

  // Barrier.
  int waiting = 0;
  std::uint64_t phase = 0;
  // What each rank shows the others between two barriers.
  std::vector<const void*> entered;
  std::vector<std::byte*> parts;
  // Messages of which one end is missing, in the order of posting.
  std::deque<Post*> open;
  // All-reduces by their number; a rank's calls are numbered by itself.
  struct AllReduce {
    std::vector<std::span<float>> data;
    bool complete = false;
  };
  std::deque<std::shared_ptr<AllReduce>> reductions;

  void check() const {
    if (failed.load(std::memory_order_acquire)) throw EchoError("another rank of this process has failed");
  }
  void fail() {
    const std::lock_guard lock(mutex);
    failed.store(true, std::memory_order_release);
    changed.notify_all();
  }
  void barrier() {
    std::unique_lock lock(mutex);
    check();
    const std::uint64_t mine = phase;
    if (++waiting == ranks) {
      waiting = 0;
      ++phase;
      changed.notify_all();
      return;
    }
    changed.wait(lock, [&] { return phase != mine || failed; });
    if (phase == mine) check();
  }
  void post(Post& p) {
    const std::lock_guard lock(mutex);
    check();
    require(p.complete, "a message was started while it was under way");
    p.complete = false;
    for (auto it = open.begin(); it != open.end(); ++it) {
      Post& q = **it;
      if (q.is_send == p.is_send || q.from != p.from || q.to != p.to || q.tag != p.tag) continue;
      Post& from = p.is_send ? p : q;
      Post& to = p.is_send ? q : p;
      if (from.size != to.size) {
        throw CommError(fmt::format("rank {} sent {} bytes to rank {}, which expected {}", p.from, from.size,
                                    p.to, to.size));
      }
      if (from.size > 0) std::memcpy(to.data, from.data, from.size);
      q.complete = p.complete = true;
      open.erase(it);
      return;
    }
    open.push_back(&p);
  }
  bool test(const Post& p) {
    const std::lock_guard lock(mutex);
    if (!p.complete) check();
    return p.complete;
  }
  /// True when the message was complete.
  bool withdraw(const Post& p) {
    const std::lock_guard lock(mutex);
    std::erase(open, &p);
    return p.complete;
  }
};

class ThreadMessage final : public PersistentRequest, public Request {
 public:
  ThreadMessage(Hub& hub, const Post& post) : hub_(hub), post_(post) {}
  ~ThreadMessage() override {
    if (hub_.withdraw(post_) || hub_.failed || std::uncaught_exceptions() > 0) return;
    std::fputs("lockstep: a message was destroyed while it was under way\n", stderr);
    std::abort();
  }
  void start() override { hub_.post(post_); }
  bool test() override { return hub_.test(post_); }

 private:
  Hub& hub_;
  Post post_;
};

class ThreadAllReduce final : public Request {
 public:
  ThreadAllReduce(Hub& hub, std::shared_ptr<Hub::AllReduce> op) : hub_(hub), op_(std::move(op)) {}
  bool test() override {
    const std::lock_guard lock(hub_.mutex);
    if (!op_->complete) hub_.check();
    return op_->complete;
  }

 private:
  Hub& hub_;
  std::shared_ptr<Hub::AllReduce> op_;
};

class ThreadCommunicator;

class ThreadRegion final : public SharedRegion {
 public:
  ThreadRegion(Hub& hub, const Topology& topology, std::size_t bytes) : topology_(topology), bytes_(bytes) {
    const std::size_t size = align_up(std::max<std::size_t>(bytes, 1), page_bytes());
    mine_.reset(static_cast<std::byte*>(::operator new (size, std::align_val_t{page_bytes()})));
    std::memset(mine_.get(), 0, size);
    {
      const std::lock_guard lock(hub.mutex);
      hub.parts[static_cast<std::size_t>(topology.rank)] = mine_.get();
    }
    hub.barrier();
    {
      const std::lock_guard lock(hub.mutex);
      bases_ = hub.parts;
    }
    hub.barrier();
  }
  std::byte* base(int rank) const override {
    const auto r = static_cast<std::size_t>(rank);
    return topology_.group_of[r] == topology_.group() ? bases_[r] : nullptr;
  }
  std::size_t bytes() const override { return bytes_; }
  /// Kept by the communicator until all ranks have ended, since peers may read it for longer than this rank.
  Pages release() { return std::move(mine_); }

 private:
  Topology topology_;
  std::size_t bytes_;
  Pages mine_;
  std::vector<std::byte*> bases_;
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(Hub& hub, Topology topology) : hub_(hub), topology_(std::move(topology)) {}

  const Topology& topology() const override { return topology_; }
  void barrier() override { hub_.barrier(); }
  void broadcast(std::span<std::byte> data, int root) override {
    require(root >= 0 && root < topology_.size, "broadcast: no such root");
    show(&data);
    const auto& theirs = *static_cast<const std::span<std::byte>*>(seen(root));
    require(theirs.size() == data.size(), "broadcast: sizes differ between ranks");
    if (rank() != root && !data.empty()) std::memcpy(data.data(), theirs.data(), data.size());
    hub_.barrier();
  }
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    require(all.size() == mine.size() * static_cast<std::size_t>(topology_.size),
            "all_gather: sizes do not fit");
    show(&mine);
    for (int r = 0; r < topology_.size; ++r) {
      const auto& theirs = *static_cast<const std::span<const std::byte>*>(seen(r));
      require(theirs.size() == mine.size(), "all_gather: sizes differ between ranks");
      if (!mine.empty()) {
        std::memcpy(all.data() + static_cast<std::size_t>(r) * mine.size(), theirs.data(), mine.size());
      }
    }
    hub_.barrier();
  }
  std::unique_ptr<Request> start_all_reduce_sum(std::span<float> data) override {
    const std::lock_guard lock(hub_.mutex);
    hub_.check();
    const std::size_t number = reductions_++;
    if (hub_.reductions.size() <= number) hub_.reductions.push_back(std::make_shared<Hub::AllReduce>());
    auto op = hub_.reductions[number];
    op->data.push_back(data);
    require(op->data.front().size() == data.size(), "all_reduce_sum: sizes differ between ranks");
    if (op->data.size() == static_cast<std::size_t>(topology_.size)) {
      std::vector<float> sum(data.size(), 0.0f);
      for (const auto& part : op->data) {
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
      }
      for (const auto& part : op->data) std::copy(sum.begin(), sum.end(), part.begin());
      op->complete = true;
    }
    return std::make_unique<ThreadAllReduce>(hub_, std::move(op));
  }
  std::unique_ptr<Request> send(std::span<const std::byte> data, int to, int tag) override {
    return started(sending(data, to, tag));
  }
  std::unique_ptr<Request> receive(std::span<std::byte> data, int from, int tag) override {
    return started(receiving(data, from, tag));
  }
  std::unique_ptr<PersistentRequest> make_send(std::span<const std::byte> data, int to, int tag) override {
    return std::make_unique<ThreadMessage>(hub_, sending(data, to, tag));
  }
  std::unique_ptr<PersistentRequest> make_receive(std::span<std::byte> data, int from, int tag) override {
    return std::make_unique<ThreadMessage>(hub_, receiving(data, from, tag));
  }
  void poll() override { hub_.check(); }
  std::unique_ptr<SharedRegion> allocate_shared(std::size_t bytes) override;
  [[noreturn]] void abort(int code) override {
    hub_.fail();
    throw CommError(fmt::format("rank {} ended all ranks with code {}", rank(), code));
  }

  std::vector<Pages> kept;

 private:
  void show(const void* what) {
    {
      const std::lock_guard lock(hub_.mutex);
      hub_.entered[static_cast<std::size_t>(rank())] = what;
    }
    hub_.barrier();
  }
  const void* seen(int r) {
    const std::lock_guard lock(hub_.mutex);
    return hub_.entered[static_cast<std::size_t>(r)];
  }
  Post sending(std::span<const std::byte> data, int to, int tag) const {
    // The copy is made by whoever comes second; the buffer of a send is only read.
    return {const_cast<std::byte*>(data.data()), data.size(), rank(), to, tag, true, true};
  }
  Post receiving(std::span<std::byte> data, int from, int tag) const {
    return {data.data(), data.size(), from, rank(), tag, false, true};
  }
  std::unique_ptr<Request> started(const Post& post) {
    auto message = std::make_unique<ThreadMessage>(hub_, post);
    message->start();
    return message;
  }

  Hub& hub_;
  Topology topology_;
  std::size_t reductions_ = 0;
};

/// Hands its pages over to the communicator when it goes.
class KeptRegion final : public SharedRegion {
 public:
  KeptRegion(ThreadCommunicator& comm, std::unique_ptr<ThreadRegion> region)
      : comm_(comm), region_(std::move(region)) {}
  ~KeptRegion() override { comm_.kept.push_back(region_->release()); }
  std::byte* base(int rank) const override { return region_->base(rank); }
  std::size_t bytes() const override { return region_->bytes(); }

 private:
  ThreadCommunicator& comm_;
  std::unique_ptr<ThreadRegion> region_;
};

std::unique_ptr<SharedRegion> ThreadCommunicator::allocate_shared(std::size_t bytes) {
  return std::make_unique<KeptRegion>(*this, std::make_unique<ThreadRegion>(hub_, topology_, bytes));
}

}  // namespace

Topology make_topology(int rank, const std::vector<int>& group_sizes) {
  Topology t;
  t.rank = rank;
  t.size = std::accumulate(group_sizes.begin(), group_sizes.end(), 0);
  t.group_begin = {0};
  for (std::size_t g = 0; g < group_sizes.size(); ++g) {
    t.group_of.insert(t.group_of.end(), static_cast<std::size_t>(group_sizes[g]), static_cast<int>(g));
    t.group_begin.push_back(t.group_begin.back() + group_sizes[g]);
  }
  return t;
}

void run_ranks(int ranks, const std::vector<int>& group_sizes,
               const std::function<void(Communicator&)>& body) {
  const std::vector<int> groups = group_sizes.empty() ? std::vector<int>{ranks} : group_sizes;
  require(std::accumulate(groups.begin(), groups.end(), 0) == ranks, "run_ranks: the groups do not add up");
  Hub hub(ranks);
  std::vector<std::unique_ptr<ThreadCommunicator>> comms;
  comms.reserve(static_cast<std::size_t>(ranks));
  for (int r = 0; r < ranks; ++r)
    comms.push_back(std::make_unique<ThreadCommunicator>(hub, make_topology(r, groups)));
  std::vector<std::exception_ptr> own(comms.size());
  std::vector<std::exception_ptr> echoes(comms.size());
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < comms.size(); ++r) {
    threads.emplace_back([&, r] {
      try {
        body(*comms[r]);
      } catch (const EchoError&) {
        echoes[r] = std::current_exception();
      } catch (const SilentError&) {
        echoes[r] = std::current_exception();
      } catch (...) {
        own[r] = std::current_exception();
        hub.fail();
      }
    });
  }
  for (std::thread& t : threads) t.join();
  for (const auto& list : {own, echoes}) {
    for (const std::exception_ptr& e : list) {
      if (e) std::rethrow_exception(e);
    }
  }
}

}  // namespace lockstep
