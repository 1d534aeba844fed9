#include "model/cuda/run/queue.h"

#include <algorithm>

namespace lockstep::cuda {
namespace {

int multiprocessors_of_this_device() {
  int device = 0, count = 0;
  LOCKSTEP_CUDA_CALL(cudaGetDevice(&device));
  LOCKSTEP_CUDA_CALL(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

}  // namespace

GpuQueue::GpuQueue(const Stream& compute, std::function<void(const Event&)> wait)
    : compute_(compute),
      multiprocessors_(multiprocessors_of_this_device()),
      wait_(std::move(wait)),
      upload_(Stream::create()),
      download_(Stream::create()),
      finished_(Event::create()) {}

std::byte* GpuQueue::allocate(std::size_t bytes) {
  memory_.emplace_back(std::max<std::size_t>(bytes, 1));
  return memory_.back().data();
}

std::byte* GpuQueue::allocate_pinned(std::size_t bytes) {
  pinned_.emplace_back(std::max<std::size_t>(bytes, 1));
  return pinned_.back().data();
}

void GpuQueue::make_events(int count) {
  for (int i = 0; i < count; ++i) events_.push_back(Event::create());
}

void GpuQueue::host_wait(int event) {
  // An upload may stand behind the compute stream, and that behind a collective.
  const Event& waited = events_[static_cast<std::size_t>(event)];
  if (wait_)
    wait_(waited);
  else
    waited.synchronize();
}

void GpuQueue::finish() {
  if (!wait_) {
    compute_.synchronize();
    return;
  }
  finished_.record(compute_);
  wait_(finished_);
}

void GpuQueue::make_marks(int count) {
  for (int i = 0; i < count; ++i) marks_.push_back(Event::create(Event::Timing::on));
}

double GpuQueue::seconds_between(int from, int to) const {
  return 1e-3 * static_cast<double>(Event::milliseconds(marks_[static_cast<std::size_t>(from)],
                                                        marks_[static_cast<std::size_t>(to)]));
}

const Stream& GpuQueue::stream(Lane lane) const {
  switch (lane) {
    case Lane::upload:
      return upload_;
    case Lane::download:
      return download_;
    case Lane::compute:
      break;
  }
  return compute_;
}

}  // namespace lockstep::cuda
