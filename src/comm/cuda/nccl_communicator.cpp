#include "comm/cuda/nccl_communicator.h"

#include <cstring>
#include <exception>
#include <fmt/format.h>
#include <optional>
#include <span>
#include <utility>

#include "core/error.h"
#include "core/flight_recorder.h"
#include "core/text.h"
#include "device/cpu_info.h"
#include "device/lane_pool.h"
#include "watch/final_report.h"

namespace lockstep::cuda {

void NcclCommunicator::Patience::rest() {
  relax(spins_);
}

NcclCommunicator::NcclCommunicator(Communicator& comm, const GpuInfo& device, const NcclOptions& options)
    : comm_(comm), device_(device), options_(options), limits_(options.timeout_s) {
  ncclUniqueId id{};
  agree_on_error(comm, [&] {
    if (comm.rank() == 0) noted("ncclGetUniqueId", ncclGetUniqueId(&id));
  });
  comm.broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  complete("ncclCommInitRankConfig", ncclCommInitRankConfig(&handle_, comm.size(), id, comm.rank(), &config));
}

NcclCommunicator::~NcclCommunicator() {
  if (handle_ == nullptr || aborted_) return;
  if (std::uncaught_exceptions() > 0) {
    abort("an error ends this rank");
    return;
  }
  try {
    (void)limits_.next("ncclCommFinalize");  // a farewell connects to nobody
    complete("ncclCommFinalize", ncclCommFinalize(handle_));
    (void)ncclCommDestroy(handle_);
  } catch (const Error&) {
    // A peer left without its part of the farewell; complete() has aborted, and nothing is held any more.
  }
}

std::string NcclCommunicator::who() const {
  return fmt::format("rank {} on {}, GPU {} ({})", comm_.rank(), host_name(), device_.ordinal, device_.name);
}

void NcclCommunicator::abort(const std::string& why) noexcept {
  if (aborted_.exchange(true) || handle_ == nullptr) return;
  // Should this never return, the watchdog ends the process, and nobody would know why.
  try {
    write_error_stream(fmt::format("lockstep: {}: {}; ending NCCL's part\n", who(), why));
  } catch (const std::exception&) {
    // no memory for the words
  }
  // Inside a group the library would only note that it is to abort.
  while (group_depth_ > 0) {
    --group_depth_;
    (void)ncclGroupEnd();
  }
  (void)ncclCommAbort(handle_);
  handle_ = nullptr;
}

void NcclCommunicator::fail(const char* call, ncclResult_t code) {
  // The library's longer text belongs to the communicator, so it is read before that ends.
  const char* last = ncclGetLastError(handle_);
  std::string text = ncclGetErrorString(code);
  if (last != nullptr && *last != '\0') text += fmt::format("; {}", last);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  abort(fmt::format("{} failed: {}", call, text));
  throw CommError(fmt::format("{} failed on {}: {}", call, who(), text));
}

void NcclCommunicator::time_out(const char* what, double seconds) {
  const std::string told = fmt::format("{} made no progress for {:g} s", what, seconds);
  abort(told + ": another rank failed or hangs");
  throw CommError(fmt::format("{} on {}: another rank failed or hangs", told, who()));
}

void NcclCommunicator::noted(const char* call, ncclResult_t code) {
  if (code != ncclSuccess && code != ncclInProgress) fail(call, code);
}

void NcclCommunicator::complete(const char* call, ncclResult_t code) {
  if (group_depth_ > 0) {
    noted(call, code);
    return;
  }
  const CallLimits::Limit limit = limits_.next(call);
  Patience patience(limit.seconds);
  // What takes longer than a moment waits for peers: then the others are to know that this rank does.
  std::optional<FlightScope> waiting;
  while (code == ncclInProgress) {
    if (const ncclResult_t asked = ncclCommGetAsyncError(handle_, &code); asked != ncclSuccess)
      fail("ncclCommGetAsyncError", asked);
    if (code != ncclInProgress) break;
    if (patience.is_over()) time_out(call, limit.seconds);
    // The watchdog does not know how many peers are still to be connected.
    if (limit.connects && comm_.recorder() != nullptr) comm_.recorder()->tick();
    if (!waiting && patience.passed() > 0.01) waiting.emplace(comm_.recorder(), Activity::message);
    comm_.poll();
    patience.rest();
  }
  if (code != ncclSuccess) fail(call, code);
}

void NcclCommunicator::poll() {
  ncclResult_t state = ncclSuccess;
  if (const ncclResult_t asked = ncclCommGetAsyncError(handle_, &state); asked != ncclSuccess)
    fail("ncclCommGetAsyncError", asked);
  if (state != ncclSuccess && state != ncclInProgress) fail("a collective under way", state);
  comm_.poll();
}

void NcclCommunicator::group_begin() {
  noted("ncclGroupStart", ncclGroupStart());
  ++group_depth_;
}

void NcclCommunicator::group_end() {
  --group_depth_;
  complete("ncclGroupEnd", ncclGroupEnd());
}

void NcclCommunicator::send(const float* data, std::size_t count, int to, const Stream& stream) {
  complete("ncclSend", ncclSend(data, count, ncclFloat32, to, handle_, stream.handle()));
}

void NcclCommunicator::receive(float* data, std::size_t count, int from, const Stream& stream) {
  complete("ncclRecv", ncclRecv(data, count, ncclFloat32, from, handle_, stream.handle()));
}

void NcclCommunicator::all_gather(float* data, std::size_t count, const Stream& stream) {
  const float* mine = data + static_cast<std::size_t>(comm_.rank()) * count;
  complete("ncclAllGather", ncclAllGather(mine, data, count, ncclFloat32, handle_, stream.handle()));
}

void NcclCommunicator::all_gather(double* data, std::size_t count, const Stream& stream) {
  const double* mine = data + static_cast<std::size_t>(comm_.rank()) * count;
  complete("ncclAllGather", ncclAllGather(mine, data, count, ncclFloat64, handle_, stream.handle()));
}

void NcclCommunicator::all_reduce_sum(float* data, std::size_t count, const Stream& stream) {
  complete("ncclAllReduce", ncclAllReduce(data, data, count, ncclFloat32, ncclSum, handle_, stream.handle()));
}

std::string NcclCommunicator::version() {
  int code = 0;
  if (ncclGetVersion(&code) != ncclSuccess) code = NCCL_VERSION_CODE;
  return fmt::format("NCCL {}.{}.{}", code / 10000, code / 100 % 100, code % 100);
}

NcclBuffer::NcclBuffer(NcclCommunicator& comm, std::size_t bytes) : comm_(&comm), bytes_(bytes) {
  if (bytes == 0) return;
  if (const ncclResult_t code = ncclMemAlloc(&data_, bytes); code != ncclSuccess) {
    const std::string told = fmt::format(
        "{} of GPU memory could not be had: ncclMemAlloc: {}, {}. Where a container forbids NCCL's way "
        "to take memory, NCCL_CUMEM_ENABLE=0 in the environment of all ranks takes another",
        human_bytes(bytes), ncclGetErrorString(code), where());
    comm.abort(told);
    throw DeviceError(told);
  }
  try {
    comm.complete("ncclCommRegister", ncclCommRegister(comm.handle_, data_, bytes, &registration_));
    LOCKSTEP_CUDA_CALL(cudaMemset(data_, 0, bytes));
    LOCKSTEP_CUDA_CALL(cudaStreamSynchronize(nullptr));
  } catch (...) {
    release();
    throw;
  }
}

NcclBuffer& NcclBuffer::operator=(NcclBuffer&& other) noexcept {
  if (this != &other) {
    release();
    comm_ = std::exchange(other.comm_, nullptr);
    data_ = std::exchange(other.data_, nullptr);
    registration_ = std::exchange(other.registration_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

void NcclBuffer::release() noexcept {
  if (data_ == nullptr) return;
  // What waits for a peer on the device would keep the memory from being freed.
  if (std::uncaught_exceptions() > 0) comm_->abort("an error ends this rank");
  // An aborted communicator has dropped its registrations with itself.
  if (registration_ != nullptr && !comm_->aborted()) (void)ncclCommDeregister(comm_->handle_, registration_);
  (void)ncclMemFree(data_);
  data_ = nullptr;
}

}  // namespace lockstep::cuda
