#include "comm/cuda/nccl_sync.h"

#include <algorithm>
#include <exception>
#include <fmt/format.h>

#include "comm/cuda/sync_kernels.h"
#include "comm/sync/bucket_plan.h"
#include "core/error.h"
#include "core/flight_recorder.h"

namespace lockstep::cuda {

/// Carries the plan out: collectives through NCCL, sums by kernels, all on the synchroniser's stream.
class NcclSync::Backend final : public CollectiveBackend {
 public:
  explicit Backend(NcclSync& sync) : sync_(sync) {}
  void enter(std::int64_t bucket) override { sync_.counters_.enter(bucket, sync_.stream_); }
  void leave(std::int64_t) override { sync_.counters_.leave(sync_.stream_); }
  void group_begin() override { sync_.nccl_->group_begin(); }
  void group_end() override { sync_.nccl_->group_end(); }
  void send(const float* data, std::size_t count, int to) override {
    sync_.nccl_->send(data, count, to, sync_.stream_);
  }
  void receive(float* data, std::size_t count, int from) override {
    sync_.nccl_->receive(data, count, from, sync_.stream_);
  }
  void all_gather(float* data, std::size_t count) override {
    sync_.nccl_->all_gather(data, count, sync_.stream_);
  }
  void all_gather(double* data, std::size_t count) override {
    sync_.nccl_->all_gather(data, count, sync_.stream_);
  }
  void all_reduce_sum(float* data, std::size_t count) override {
    sync_.nccl_->all_reduce_sum(data, count, sync_.stream_);
  }
  void complete(const CompletionOperands& from, const MergeProgram& program, std::int64_t count,
                float* out) override {
    launch_complete(from, sync_.merges_.as<std::uint8_t>().data(),
                    static_cast<std::int32_t>(program.merges.size()), program.depth, count, out,
                    sync_.stream_.handle());
  }
  void mark_finite(const float* data, std::int64_t count, double* marks) override {
    launch_block_marks(data, count, marks, sync_.stream_.handle());
  }

 private:
  NcclSync& sync_;
};

namespace {

CollectivePlanOptions plan_options(const Communicator& comm, std::int64_t elements,
                                   const GradientSyncOptions& sync) {
  require_enough_slices(comm, sync.slices);
  return {elements, comm.rank(), comm.size(), sync};
}

}  // namespace

NcclSync::NcclSync(Communicator& comm, const GpuInfo& device, const NcclOptions& nccl, std::int64_t elements,
                   const GradientSyncOptions& options, const Stream& compute)
    : comm_(comm),
      options_(options),
      compute_(compute),
      elements_(elements),
      plan_(plan_options(comm, elements, options)),
      stream_(Stream::create(Stream::Priority::high)),
      finished_(Event::create()),
      published_(Event::create()),
      gathered_(Event::create()),
      missing_(static_cast<std::size_t>(plan_.buckets.buckets())) {
  if (comm.size() > 1) nccl_ = std::make_unique<NcclCommunicator>(comm, device, nccl);
  const auto padded = static_cast<std::size_t>(plan_.buckets.padded_elements());
  buffers_.slot_stride = static_cast<std::int64_t>(padded);
  buffers_.slots = static_cast<float*>(allocate(padded * plan_.subtrees.size() * sizeof(float)));
  buffers_.received =
      static_cast<float*>(allocate(static_cast<std::size_t>(plan_.received_elements) * sizeof(float)));
  buffers_.parameters = static_cast<float*>(allocate(padded * sizeof(float)));
  buffers_.marks =
      static_cast<double*>(allocate(static_cast<std::size_t>(plan_.marked_blocks) * sizeof(double)));
  buffers_.block_values =
      static_cast<double*>(allocate(static_cast<std::size_t>(plan_.value_blocks) * sizeof(double)));
  merges_ = DeviceBuffer(plan_.program.merges.size());
  LOCKSTEP_CUDA_CALL(cudaMemcpy(merges_.data(), plan_.program.merges.data(), plan_.program.merges.size(),
                                cudaMemcpyHostToDevice));
  // From memory that is not pinned the copy may still be under way, and other streams do not wait for it.
  LOCKSTEP_CUDA_CALL(cudaStreamSynchronize(nullptr));
  for (std::int64_t b = 0; b < buckets(); ++b) bucket_ready_.push_back(Event::create());
  backend_ = std::make_unique<Backend>(*this);

  const bool part = options.sharded && comm.size() > 1;
  if (part) {
    shard_ = plan_.buckets.shard(comm.rank());
  } else if (elements > 0) {
    shard_ = {{0, elements}};
  }
  for (const Range& range : shard_) totals_.push_back({range, buffers_.slots + range.begin});
  if (nccl_ && comm.recorder() != nullptr) comm.recorder()->watch_device([this] { return counters_.read(); });
  traffic_.sent_bytes = plan_.sent_bytes();
  for (int r = 0; r < comm.size(); ++r)
    traffic_.subtrees =
        std::max(traffic_.subtrees,
                 static_cast<std::int64_t>(subtrees_of_rank(options.slices, r, comm.size()).size()));
}

NcclSync::~NcclSync() {
  if (comm_.recorder() != nullptr) comm_.recorder()->watch_device(nullptr);
  if (!nccl_) return;
  // To free memory of ncclMemAlloc, unlike that of cudaMalloc, need not wait for kernels, which would then
  // write where nothing is. Those of an aborted library have ended, so neither stream waits for a peer.
  // While an exception unwinds, a kernel may wait for a peer that will not come.
  if (nccl_->aborted() || std::uncaught_exceptions() > 0) {
    abandon("an error ends this rank");
    return;
  }
  try {
    // Of both streams.
    finished_.record(compute_);
    finished_.make_wait(stream_);
    finished_.record(stream_);
    wait(finished_);
  } catch (const Error& e) {
    abandon(e.what());
  }
}

void NcclSync::drain() noexcept {
  (void)cudaStreamSynchronize(stream_.handle());
  (void)cudaStreamSynchronize(compute_.handle());
}

void NcclSync::abandon(const std::string& why) noexcept {
  if (!nccl_) return;
  nccl_->abort(why);
  drain();
}

void* NcclSync::allocate(std::size_t bytes) {
  if (nccl_) {
    registered_.emplace_back(*nccl_, bytes);
    return registered_.back().data();
  }
  private_.emplace_back(bytes);
  return private_.back().data();
}

std::span<float> NcclSync::slot(std::size_t i) {
  require(i < plan_.subtrees.size(), "NcclSync::slot: no such slot");
  return {buffers_.slots + static_cast<std::int64_t>(i) * buffers_.slot_stride,
          static_cast<std::size_t>(elements_)};
}

std::span<const double> NcclSync::finite_marks() const {
  const auto blocks = static_cast<std::size_t>((elements_ + block_elements - 1) / block_elements);
  return {buffers_.marks, plan_.marked_blocks > 0 ? blocks : 0};
}

std::span<double> NcclSync::block_values() {
  const auto blocks = static_cast<std::size_t>((elements_ + block_elements - 1) / block_elements);
  return {buffers_.block_values, plan_.value_blocks > 0 ? blocks : 0};
}

std::span<float> NcclSync::parameters() {
  return {buffers_.parameters, static_cast<std::size_t>(elements_)};
}

void NcclSync::begin_step(std::int64_t) {
  require(!open_, "GradientSync::begin_step: the last step was not finished");
  open_ = true;
  issued_ = 0;
  for (std::int64_t b = 0; b < buckets(); ++b) missing_[static_cast<std::size_t>(b)] = bucket(b).size();
}

void NcclSync::ready(Range range) {
  require(open_, "GradientSync::ready: no step is open");
  while (range.begin < range.end) {
    const std::int64_t b = plan_.buckets.bucket_of(range.begin);
    const std::int64_t end = std::min(range.end, bucket(b).end);
    std::int64_t& missing = missing_[static_cast<std::size_t>(b)];
    missing -= end - range.begin;
    require(missing >= 0, "GradientSync::ready: a range was ready twice");
    if (missing == 0) bucket_ready_[static_cast<std::size_t>(b)].record(compute_);
    range.begin = end;
  }
  if (options_.overlap) issue_ready_buckets();
}

void NcclSync::issue_ready_buckets() {
  while (issued_ < buckets() && missing_[static_cast<std::size_t>(issued_)] == 0) {
    const auto b = static_cast<std::size_t>(issued_++);
    bucket_ready_[b].make_wait(stream_);
    run(plan_.gradients[b]);
  }
}

void NcclSync::run(const std::vector<CollectiveOp>& ops) {
  run_collectives(ops, plan_, buffers_, *backend_);
}

void NcclSync::finish() {
  require(open_, "GradientSync::finish: no step is open");
  issue_ready_buckets();
  require(issued_ == buckets(), "GradientSync::finish: not everything is ready");
  run(plan_.finish);
  finished_.record(stream_);
  finished_.make_wait(compute_);
  open_ = false;
}

void NcclSync::run_behind_compute(const std::vector<CollectiveOp>& ops, Event& done) {
  published_.record(compute_);
  published_.make_wait(stream_);
  run(ops);
  done.record(stream_);
}

void NcclSync::gather_block_values() {
  if (plan_.block_values.empty()) return;
  run_behind_compute(plan_.block_values, finished_);
  finished_.make_wait(compute_);
}

void NcclSync::publish_parameters() {
  if (!plan_.parameters.empty()) run_behind_compute(plan_.parameters, gathered_);
}

void NcclSync::gather_parameters(int lane, int) {
  if (lane == 0 && !plan_.parameters.empty()) gathered_.make_wait(compute_);
}

void NcclSync::wait(const Event& event) {
  if (!nccl_ || nccl_->aborted()) {
    event.synchronize();
    return;
  }
  nccl_->wait(event, "the step on the device", [&] {
    const CollectiveProgress seen = counters_.read();
    return seen.entered + seen.left;
  });
}

}  // namespace lockstep::cuda
