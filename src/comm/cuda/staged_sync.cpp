#include "comm/cuda/staged_sync.h"

#include "core/error.h"
#include "device/lane_pool.h"

namespace lockstep::cuda {
namespace {

std::size_t bytes_of(Range range) {
  return static_cast<std::size_t>(range.size()) * sizeof(float);
}

}  // namespace

StagedSync::StagedSync(Communicator& comm, std::unique_ptr<GradientSync> host, std::int64_t elements,
                       const GradientSyncOptions& options, const Stream& compute)
    : comm_(comm),
      options_(options),
      compute_(compute),
      elements_(elements),
      host_(std::move(host)),
      exchanges_parameters_(options.sharded && comm.size() > 1),
      stream_(Stream::create(Stream::Priority::high)),
      computed_(Event::create()),
      copied_(Event::create()) {
  const std::size_t bytes = static_cast<std::size_t>(elements) * sizeof(float);
  for (std::size_t i = 0; i < host_->subtrees().size(); ++i) {
    slots_.emplace_back(bytes);
    pin(host_->slot(i).data(), bytes);
  }
  parameters_ = DeviceBuffer(bytes);
  pin(host_->parameters().data(), bytes);
  const auto blocks = static_cast<std::size_t>((elements + block_elements - 1) / block_elements);
  if (options.finite_marks) marks_ = DeviceBuffer(blocks * sizeof(double));
  if (options.block_values) block_values_ = DeviceBuffer(blocks * sizeof(double));
  // Whatever the host's totals are made of, they come to one place here.
  for (const Range& range : host_->shard())
    totals_.push_back({range, slots_[0].as<float>().data() + range.begin});
}

StagedSync::~StagedSync() {
  LOCKSTEP_CUDA_RELEASE(cudaStreamSynchronize(stream_.handle()));
  for (void* memory : pinned_) LOCKSTEP_CUDA_RELEASE(cudaHostUnregister(memory));
}

void StagedSync::pin(void* memory, std::size_t bytes) {
  if (bytes == 0) return;
  // Copies from memory that cannot be pinned are slower, and else the same.
  if (cudaHostRegister(memory, bytes, cudaHostRegisterDefault) == cudaSuccess) {
    pinned_.push_back(memory);
  } else {
    (void)cudaGetLastError();
  }
}

std::span<float> StagedSync::slot(std::size_t i) {
  require(i < slots_.size(), "StagedSync::slot: no such slot");
  return slots_[i].as<float>();
}

std::span<const double> StagedSync::finite_marks() const {
  return marks_.as<double>();
}

void StagedSync::begin_step(std::int64_t step) {
  // Totals may still be on their way out of a peer's memory, which the peer may reuse once this rank has said
  // that it begins a step.
  wait(copied_);
  ranges_ = 0;
  leaving_.clear();
  host_->begin_step(step);
}

void StagedSync::ready(Range range) {
  if (range.size() == 0) return;
  computed_.record(compute_);
  computed_.make_wait(stream_);
  for (std::size_t i = 0; i < slots_.size(); ++i)
    copy_to_host(host_->slot(i).data() + range.begin, slots_[i].as<float>().data() + range.begin,
                 bytes_of(range), stream_);
  if (ranges_ == events_.size()) events_.push_back(Event::create());
  events_[ranges_].record(stream_);
  leaving_.push_back({range, ranges_++});
}

void StagedSync::hand_over() {
  while (!leaving_.empty() && events_[leaving_.front().event].reached()) {
    host_->ready(leaving_.front().range);
    leaving_.pop_front();
  }
}

void StagedSync::progress() {
  if (!options_.overlap) return;
  hand_over();
  host_->progress();
}

void StagedSync::finish() {
  while (!leaving_.empty()) {
    wait(events_[leaving_.front().event]);
    progress();
    hand_over();
  }
  host_->finish();
  for (const TotalView& view : host_->totals())
    copy_to_device(slots_[0].as<float>().data() + view.range.begin, view.data, bytes_of(view.range), stream_);
  if (options_.finite_marks)
    copy_to_device(marks_.data(), host_->finite_marks().data(), host_->finite_marks().size_bytes(), stream_);
  copied_.record(stream_);
  copied_.make_wait(compute_);
}

void StagedSync::gather_block_values() {
  // The host's shard is everything where the device's is: then nothing has to move.
  if (!exchanges_parameters_) return;
  const std::span<double> values = host_->block_values();
  computed_.record(compute_);
  computed_.make_wait(stream_);
  copy_to_host(values.data(), block_values_.data(), values.size_bytes(), stream_);
  computed_.record(stream_);
  wait(computed_);
  host_->gather_block_values();
  copy_to_device(block_values_.data(), values.data(), values.size_bytes(), stream_);
  copied_.record(stream_);
  copied_.make_wait(compute_);
}

void StagedSync::publish_parameters() {
  if (!exchanges_parameters_) return;
  computed_.record(compute_);
  computed_.make_wait(stream_);
  for (const Range& range : host_->shard())
    copy_to_host(host_->parameters().data() + range.begin, parameters_.as<float>().data() + range.begin,
                 bytes_of(range), stream_);
  computed_.record(stream_);
  wait(computed_);
  host_->publish_parameters();
}

void StagedSync::gather_parameters(int lane, int) {
  if (lane != 0 || !exchanges_parameters_) return;
  host_->gather_parameters(0, 1);
  copy_to_device(parameters_.data(), host_->parameters().data(), bytes_of({0, elements_}), stream_);
  copied_.record(stream_);
  copied_.make_wait(compute_);
  // The next publication overwrites what is being copied.
  wait(copied_);
}

void StagedSync::wait(const Event& event) {
  unsigned spins = 0;
  while (!event.reached()) {
    comm_.poll();
    relax(spins);
  }
}

}  // namespace lockstep::cuda
