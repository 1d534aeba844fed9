#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace lockstep {

class FlightRecorder;

/// Where the ranks are. Ranks are numbered by (node, local rank): the ranks of a group are contiguous.
/// A group is a set of ranks that see each other's shared memory: a node, or a single rank where shared
/// memory cannot be had.
struct Topology {
  int rank = 0;
  int size = 1;
  std::vector<int> group_of;     ///< group index of every rank, ascending
  std::vector<int> group_begin;  ///< first rank of every group, and `size` at the end
  int group() const { return group_of[static_cast<std::size_t>(rank)]; }
  int groups() const { return static_cast<int>(group_begin.size()) - 1; }
  int local_rank() const { return rank - group_begin[static_cast<std::size_t>(group())]; }
  int group_size(int g) const {
    return group_begin[static_cast<std::size_t>(g) + 1] - group_begin[static_cast<std::size_t>(g)];
  }
};

/// Memory that every rank of a group sees: each rank owns one part of the same size. Zeroed, aligned to
/// 4 KiB. Ranks of other groups have no view of it (base() is null for them).
class SharedRegion {
 public:
  virtual ~SharedRegion() = default;
  /// The part of `rank` (a rank of the communicator), or null when it is in another group.
  virtual std::byte* base(int rank) const = 0;
  /// Bytes of every rank's part.
  virtual std::size_t bytes() const = 0;
};

/// A message under way. Destroying one that has not completed is a defect: it logs and ends the process.
class Request {
 public:
  virtual ~Request() = default;
  /// True once the message has arrived or may be overwritten. Drives progress. Never blocks.
  virtual bool test() = 0;
};

/// A message of fixed buffer, peer and tag that is sent or received again and again: start() and test()
/// allocate nothing. Not started, or completed since: test() is true. Destroying one under way is a defect,
/// as above, except while an exception unwinds: then the message is left to the library.
class PersistentRequest {
 public:
  virtual ~PersistentRequest() = default;
  /// The buffer belongs to the message from here until test() is true. Starting one under way is a defect.
  virtual void start() = 0;
  /// As Request::test().
  virtual bool test() = 0;
};

/// The collectives of one set of ranks. Every method marked (all) must be called by all ranks in the same
/// order, by one thread at a time per rank; works at size 1. Buffers may be empty. Counts are bytes.
/// Errors of the library become CommError with the call, the library's text, the rank and the host.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual const Topology& topology() const = 0;
  int rank() const { return topology().rank; }
  int size() const { return topology().size; }
  /// Where this rank notes what it does; null where nobody watches. Borrowed from main.
  FlightRecorder* recorder() const { return recorder_; }

  /// (all) Returns when every rank has entered.
  virtual void barrier() = 0;
  /// (all) `data` of `root` replaces that of every other rank; sizes must be equal.
  virtual void broadcast(std::span<std::byte> data, int root) = 0;
  /// (all) all[r * mine.size() …] = mine of rank r; mine.size() equal on all ranks, all.size() = size() *
  /// mine.size().
  virtual void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) = 0;
  /// (all) In place: data[i] = sum over ranks in the library's own order. The `fast` reduction, exempt from
  /// G1. `start` returns at once; the buffer belongs to the request until test() is true.
  virtual std::unique_ptr<Request> start_all_reduce_sum(std::span<float> data) = 0;
  /// Point to point, without blocking: the buffer belongs to the request until test() is true.
  /// Messages between two ranks with one tag arrive in the order of the sends. tag in [0, 32767].
  virtual std::unique_ptr<Request> send(std::span<const std::byte> data, int to, int tag) = 0;
  virtual std::unique_ptr<Request> receive(std::span<std::byte> data, int from, int tag) = 0;
  /// The same, reusable: nothing is under way until start(). A persistent message matches one from send() or
  /// receive(): what counts is the order of the starts.
  virtual std::unique_ptr<PersistentRequest> make_send(std::span<const std::byte> data, int to, int tag) = 0;
  virtual std::unique_ptr<PersistentRequest> make_receive(std::span<std::byte> data, int from, int tag) = 0;
  /// Drives messages under way, and throws CommError when a peer is known to have failed. Never blocks;
  /// called by every loop that waits for a peer's memory to change.
  virtual void poll() = 0;
  /// (all) A part of `bytes` (equal on all ranks) for every rank.
  virtual std::unique_ptr<SharedRegion> allocate_shared(std::size_t bytes) = 0;
  /// Ends all ranks with `code`, as fast as the launcher can. Called by any rank. Does not return.
  [[noreturn]] virtual void abort(int code) = 0;

  /// (all) Texts of different length: the vector holds that of every rank, by rank.
  std::vector<std::string> all_gather_text(const std::string& mine);
  /// (all) The text of `root`, on every rank.
  std::string broadcast_text(const std::string& text, int root);

 protected:
  explicit Communicator(FlightRecorder* recorder = nullptr) : recorder_(recorder) {}

 private:
  FlightRecorder* recorder_;
};

/// (all) Runs `body` on every rank; when it threw lockstep::Error on any, throws on every rank: the original
/// on the lowest rank that failed, SilentError with the same code on the others. So one rank reports.
/// Must not enclose collectives that a failing rank would leave out.
template <class Body>
void agree_on_error(Communicator& comm, Body&& body);

/// (all) The verdict behind agree_on_error(): `code` 0 for success, the exit code otherwise.
struct Verdict {
  int code = 0;
  int lowest_failed = -1;
};
Verdict agree(Communicator& comm, int code);

}  // namespace lockstep

#include "comm/agree_on_error.inc.h"
