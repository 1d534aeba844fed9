#pragma once

#include <memory>
#include <vector>

#include "comm/cuda/device_sync.h"
#include "comm/cuda/nccl_communicator.h"
#include "comm/cuda/progress_counters.h"
#include "comm/sync/collective_plan.h"

namespace lockstep::cuda {

/// The exchange over NCCL: the plan of comm/sync/collective_plan.h, carried out on a stream of its own that
/// is ordered with the compute stream by events. On one rank NCCL is not used.
///
/// With overlap, a bucket is sent on its way as soon as it and all before it are ready; without, in finish().
class NcclSync final : public DeviceGradientSync {
 public:
  /// (all) `compute` must outlive this. Throws ConfigError when there are more ranks than slices.
  NcclSync(Communicator& comm, const GpuInfo& device, const NcclOptions& nccl, std::int64_t elements,
           const GradientSyncOptions& options, const Stream& compute);
  ~NcclSync() override;

  const std::vector<Node>& subtrees() const override { return plan_.subtrees; }
  std::span<float> slot(std::size_t i) override;
  std::int64_t buckets() const override { return plan_.buckets.buckets(); }
  Range bucket(std::int64_t b) const override { return plan_.buckets.bucket(b); }
  void begin_step(std::int64_t step) override;
  void ready(Range range) override;
  void progress() override {}
  void finish() override;
  std::span<const TotalView> totals() const override { return totals_; }
  std::span<const double> finite_marks() const override;
  std::span<double> block_values() override;
  void gather_block_values() override;
  std::span<const Range> shard() const override { return shard_; }
  std::span<float> parameters() override;
  void publish_parameters() override;
  void gather_parameters(int lane, int lanes) override;
  Traffic traffic() const override { return traffic_; }
  bool only_enqueues() const override { return true; }
  void wait(const Event& event) override;
  void abandon(const std::string& why) noexcept override;

 private:
  class Backend;
  /// Until nothing is under way on both streams; peers are not waited for, or NCCL's part was aborted.
  void drain() noexcept;
  void issue_ready_buckets();
  void run(const std::vector<CollectiveOp>& ops);
  /// Once the compute stream has got to where it is now; `done` is recorded behind them.
  void run_behind_compute(const std::vector<CollectiveOp>& ops, Event& done);
  void* allocate(std::size_t bytes);

  Communicator& comm_;
  GradientSyncOptions options_;
  const Stream& compute_;
  std::int64_t elements_;
  CollectivePlan plan_;
  std::vector<Range> shard_;
  std::vector<TotalView> totals_;
  Traffic traffic_;
  // The communicator before the memory that is registered with it, and all of it before the streams' work
  // ends.
  std::unique_ptr<NcclCommunicator> nccl_;  // null on one rank
  std::vector<NcclBuffer> registered_;
  std::vector<DeviceBuffer> private_;
  DeviceBuffer merges_;
  ProgressCounters counters_;
  Stream stream_;
  std::vector<Event> bucket_ready_;
  Event finished_;
  Event published_;
  Event gathered_;
  CollectiveBuffers buffers_;
  std::unique_ptr<Backend> backend_;
  std::vector<std::int64_t> missing_;  // elements of each bucket not yet ready
  std::int64_t issued_ = 0;            // buckets sent on their way in this step
  bool open_ = false;
};

}  // namespace lockstep::cuda
