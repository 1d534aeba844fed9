#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <nccl.h>
#include <string>
#include <utility>

#include "comm/communicator.h"
#include "comm/cuda/call_limits.h"
#include "device/cuda/device.h"

namespace lockstep::cuda {

struct NcclOptions {
  /// Without progress; 0: never. Longer than the watchdog's, which knows more of who is to blame and so
  /// speaks first. The first call of each kind, which connects to peers, has more (CallLimits).
  double timeout_s = 65;
};

/// What can be seen to move while the host waits: any number that changes.
using ProgressNumber = std::uint64_t;

/// The ranks of a communicator as NCCL knows them, one GPU each. Non-blocking: every call of the library is
/// followed until it is through, under a time-out, so that a rank that never comes does not hang the others;
/// then, and after any error, the library's own part is aborted, which ends kernels that wait for a peer, and
/// CommError is thrown with the call, the library's text, the rank, the host and the device. Nothing may be
/// called after that.
///
/// Counts are elements, in size_t. Collectives enqueue on the stream that is given; methods marked (all) must
/// be called by all ranks in the same order. One thread at a time.
class NcclCommunicator {
 public:
  /// (all) The unique id goes over `comm`, which must outlive this. The device must be current.
  NcclCommunicator(Communicator& comm, const GpuInfo& device, const NcclOptions& options);
  /// While an exception unwinds it aborts, so that no kernel of this rank waits for a peer for ever.
  ~NcclCommunicator();
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  void group_begin();
  void group_end();
  void send(const float* data, std::size_t count, int to, const Stream& stream);
  void receive(float* data, std::size_t count, int from, const Stream& stream);
  /// (all) In place: rank r's part is data[r * count, (r + 1) * count).
  void all_gather(float* data, std::size_t count, const Stream& stream);
  void all_gather(double* data, std::size_t count, const Stream& stream);
  /// (all) In place, in the library's own order.
  void all_reduce_sum(float* data, std::size_t count, const Stream& stream);

  /// Throws when the library has met an error since: a peer's end, a broken link. Never blocks.
  void poll();
  /// Waits until `event` is reached, polling; aborts and throws CommError when `progress()` has not changed
  /// for the time-out. `what` says in the message what was waited for.
  template <class Progress>
  void wait(const Event& event, const char* what, Progress&& progress) {
    Patience patience(options_.timeout_s);
    ProgressNumber last = progress();
    while (!event.reached()) {
      poll();
      if (const ProgressNumber now = progress(); now != last) {
        last = now;
        patience.renew();
      }
      if (patience.is_over()) time_out(what, options_.timeout_s);
      patience.rest();
    }
  }
  /// Ends what the library has under way on this rank. That may block, in the library or in the driver: so
  /// `why` is written to standard error before. No effect the second time.
  void abort(const std::string& why) noexcept;
  bool aborted() const noexcept { return aborted_; }
  /// "NCCL 2.28.9".
  static std::string version();

 private:
  friend class NcclBuffer;
  class Patience {
   public:
    explicit Patience(double seconds) : seconds_(seconds) {}
    void renew() { begin_ = std::chrono::steady_clock::now(); }
    double passed() const {
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
    }
    bool is_over() const { return seconds_ > 0 && passed() > seconds_; }
    void rest();

   private:
    double seconds_;
    unsigned spins_ = 0;
    std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  };

  /// Follows a call that returned `code` until it is through.
  void complete(const char* call, ncclResult_t code);
  /// A call inside a group is only noted by the library.
  void noted(const char* call, ncclResult_t code);
  [[noreturn]] void fail(const char* call, ncclResult_t code);
  [[noreturn]] void time_out(const char* what, double seconds);
  std::string who() const;

  Communicator& comm_;
  GpuInfo device_;
  NcclOptions options_;
  CallLimits limits_;
  ncclComm_t handle_ = nullptr;
  int group_depth_ = 0;
  std::atomic<bool> aborted_{false};
};

/// Device memory that NCCL may use directly (ncclMemAlloc), registered with a communicator; zeroed.
/// Collective only in that ranks should give buffers of one purpose the same size. Must end before its
/// communicator.
class NcclBuffer {
 public:
  NcclBuffer() = default;
  NcclBuffer(NcclCommunicator& comm, std::size_t bytes);
  ~NcclBuffer() { release(); }
  NcclBuffer(NcclBuffer&& other) noexcept { *this = std::move(other); }
  NcclBuffer& operator=(NcclBuffer&& other) noexcept;
  void* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return bytes_; }

 private:
  void release() noexcept;
  NcclCommunicator* comm_ = nullptr;
  void* data_ = nullptr;
  void* registration_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace lockstep::cuda
