#pragma once

#include <cuda_runtime_api.h>
#include <utility>

#include "device/cuda/call.h"

namespace lockstep::cuda {

/// A handle of the runtime that one owner releases: move-only. `Release` is called with the handle, never
/// with a null one.
template <class Handle, void (*Release)(Handle) noexcept>
class Unique {
 public:
  Unique() = default;
  explicit Unique(Handle handle) : handle_(handle) {}
  ~Unique() { reset(); }
  Unique(Unique&& other) noexcept : handle_(std::exchange(other.handle_, Handle{})) {}
  Unique& operator=(Unique&& other) noexcept {
    if (this != &other) {
      reset();
      handle_ = std::exchange(other.handle_, Handle{});
    }
    return *this;
  }
  Unique(const Unique&) = delete;
  Unique& operator=(const Unique&) = delete;

  Handle get() const noexcept { return handle_; }
  explicit operator bool() const noexcept { return handle_ != Handle{}; }
  void reset() noexcept {
    if (handle_ != Handle{}) Release(std::exchange(handle_, Handle{}));
  }

 private:
  Handle handle_{};
};

namespace detail {
void destroy(cudaStream_t stream) noexcept;
void destroy(cudaEvent_t event) noexcept;
void destroy(cudaGraph_t graph) noexcept;
void destroy(cudaGraphExec_t graph) noexcept;
}  // namespace detail

/// Work on the current device that runs in order. Does not wait for, nor is waited for by, the default
/// stream.
class Stream {
 public:
  /// No stream: handle() is null, which stands for the default one.
  Stream() = default;
  enum class Priority { normal, high };
  /// A high priority stream's kernels go first where blocks of both wait for room: for communication.
  static Stream create(Priority priority = Priority::normal);

  cudaStream_t handle() const noexcept { return handle_.get(); }
  /// Blocks the host until everything enqueued so far is done. Throws DeviceError, also for earlier failures.
  void synchronize() const;
  /// True when everything enqueued so far is done. Never blocks.
  bool idle() const;

 private:
  Unique<cudaStream_t, detail::destroy> handle_;
};

/// A point in a stream. Reusable: record() moves it.
class Event {
 public:
  Event() = default;
  enum class Timing { off, on };
  static Event create(Timing timing = Timing::off);

  cudaEvent_t handle() const noexcept { return handle_.get(); }
  void record(const Stream& stream) const;
  /// Work enqueued on `stream` from now on waits for the point last recorded. The host does not.
  void make_wait(const Stream& stream) const;
  bool reached() const;
  void synchronize() const;
  /// Milliseconds between two events with timing that were reached.
  static float milliseconds(const Event& from, const Event& to);

 private:
  Unique<cudaEvent_t, detail::destroy> handle_;
};

/// A captured graph, ready to be launched.
class Graph {
 public:
  Graph() = default;
  /// From a capture that ended; takes it over.
  explicit Graph(cudaGraph_t captured);
  void launch(const Stream& stream) const;
  explicit operator bool() const noexcept { return static_cast<bool>(exec_); }
  /// Nodes of the captured graph.
  std::size_t nodes() const;

 private:
  Unique<cudaGraph_t, detail::destroy> graph_;
  Unique<cudaGraphExec_t, detail::destroy> exec_;
};

/// Captures what is enqueued on `stream`, and on streams that wait for it and are joined again, instead of
/// running it. When `body` throws, the capture is ended and thrown away.
template <class Body>
Graph capture(const Stream& stream, Body&& body) {
  LOCKSTEP_CUDA_CALL(cudaStreamBeginCapture(stream.handle(), cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    body();
  } catch (...) {
    if (cudaStreamEndCapture(stream.handle(), &graph) == cudaSuccess && graph != nullptr)
      detail::destroy(graph);
    (void)cudaGetLastError();  // the next launch would find it
    throw;
  }
  LOCKSTEP_CUDA_CALL(cudaStreamEndCapture(stream.handle(), &graph));
  return Graph(graph);
}

}  // namespace lockstep::cuda
