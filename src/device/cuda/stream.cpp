#include "device/cuda/stream.h"

namespace lockstep::cuda {

namespace detail {
void destroy(cudaStream_t stream) noexcept {
  LOCKSTEP_CUDA_RELEASE(cudaStreamDestroy(stream));
}
void destroy(cudaEvent_t event) noexcept {
  LOCKSTEP_CUDA_RELEASE(cudaEventDestroy(event));
}
void destroy(cudaGraph_t graph) noexcept {
  LOCKSTEP_CUDA_RELEASE(cudaGraphDestroy(graph));
}
void destroy(cudaGraphExec_t graph) noexcept {
  LOCKSTEP_CUDA_RELEASE(cudaGraphExecDestroy(graph));
}
}  // namespace detail

namespace {

/// "Not ready" is an answer, but the runtime keeps it as the thread's last error all the same, and the check
/// after the next kernel launch would find it: so it is taken away.
bool is_not_ready(cudaError_t code) {
  if (code != cudaErrorNotReady) return false;
  (void)cudaGetLastError();
  return true;
}

}  // namespace

Stream Stream::create(Priority priority) {
  int least = 0;
  int greatest = 0;
  LOCKSTEP_CUDA_CALL(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  cudaStream_t handle = nullptr;
  LOCKSTEP_CUDA_CALL(cudaStreamCreateWithPriority(&handle, cudaStreamNonBlocking,
                                                  priority == Priority::high ? greatest : least));
  Stream stream;
  stream.handle_ = Unique<cudaStream_t, detail::destroy>(handle);
  return stream;
}

void Stream::synchronize() const {
  LOCKSTEP_CUDA_CALL(cudaStreamSynchronize(handle()));
}

bool Stream::idle() const {
  const cudaError_t code = cudaStreamQuery(handle());
  if (is_not_ready(code)) return false;
  LOCKSTEP_CUDA_CALL(code);
  return true;
}

Event Event::create(Timing timing) {
  cudaEvent_t handle = nullptr;
  LOCKSTEP_CUDA_CALL(
      cudaEventCreateWithFlags(&handle, timing == Timing::on ? cudaEventDefault : cudaEventDisableTiming));
  Event event;
  event.handle_ = Unique<cudaEvent_t, detail::destroy>(handle);
  return event;
}

void Event::record(const Stream& stream) const {
  LOCKSTEP_CUDA_CALL(cudaEventRecord(handle(), stream.handle()));
}

void Event::make_wait(const Stream& stream) const {
  LOCKSTEP_CUDA_CALL(cudaStreamWaitEvent(stream.handle(), handle(), 0));
}

bool Event::reached() const {
  const cudaError_t code = cudaEventQuery(handle());
  if (is_not_ready(code)) return false;
  LOCKSTEP_CUDA_CALL(code);
  return true;
}

void Event::synchronize() const {
  LOCKSTEP_CUDA_CALL(cudaEventSynchronize(handle()));
}

float Event::milliseconds(const Event& from, const Event& to) {
  float result = 0;
  LOCKSTEP_CUDA_CALL(cudaEventElapsedTime(&result, from.handle(), to.handle()));
  return result;
}

Graph::Graph(cudaGraph_t captured) : graph_(captured) {
  cudaGraphExec_t exec = nullptr;
  LOCKSTEP_CUDA_CALL(cudaGraphInstantiate(&exec, captured, 0));
  exec_ = Unique<cudaGraphExec_t, detail::destroy>(exec);
}

void Graph::launch(const Stream& stream) const {
  LOCKSTEP_CUDA_CALL(cudaGraphLaunch(exec_.get(), stream.handle()));
}

std::size_t Graph::nodes() const {
  std::size_t count = 0;
  LOCKSTEP_CUDA_CALL(cudaGraphGetNodes(graph_.get(), nullptr, &count));
  return count;
}

}  // namespace lockstep::cuda
