#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "comm/cuda/device_sync.h"

namespace lockstep::cuda {

/// The exchange through the host: device memory is copied to and from the buffers of a host synchroniser,
/// which sums along the same tree, so the bits are those of NcclSync. For GPUs that two ranks share, for
/// machines without NCCL's transports, and as the yardstick of the other. Subtree sums leave the device while
/// the backward pass goes on; the host waits for them, so a step cannot be captured.
class StagedSync final : public DeviceGradientSync {
 public:
  /// (all) `host`: a host synchroniser of the same elements and options over `comm`. `compute` must outlive
  /// this.
  StagedSync(Communicator& comm, std::unique_ptr<GradientSync> host, std::int64_t elements,
             const GradientSyncOptions& options, const Stream& compute);
  ~StagedSync() override;

  const std::vector<Node>& subtrees() const override { return host_->subtrees(); }
  std::span<float> slot(std::size_t i) override;
  std::int64_t buckets() const override { return host_->buckets(); }
  Range bucket(std::int64_t b) const override { return host_->bucket(b); }
  void begin_step(std::int64_t step) override;
  void ready(Range range) override;
  void progress() override;
  void finish() override;
  std::span<const TotalView> totals() const override { return totals_; }
  std::span<const double> finite_marks() const override;
  std::span<double> block_values() override { return block_values_.as<double>(); }
  void gather_block_values() override;
  std::span<const Range> shard() const override { return host_->shard(); }
  std::span<float> parameters() override { return parameters_.as<float>(); }
  void publish_parameters() override;
  void gather_parameters(int lane, int lanes) override;
  Traffic traffic() const override { return host_->traffic(); }
  bool only_enqueues() const override { return false; }
  void wait(const Event& event) override;

 private:
  struct Leaving {
    Range range;
    std::size_t event;
  };
  /// Tells the host synchroniser of ranges that have arrived.
  void hand_over();
  void pin(void* memory, std::size_t bytes);

  Communicator& comm_;
  GradientSyncOptions options_;
  const Stream& compute_;
  std::int64_t elements_;
  std::unique_ptr<GradientSync> host_;
  bool exchanges_parameters_;
  Stream stream_;
  std::vector<DeviceBuffer> slots_;
  DeviceBuffer parameters_;
  DeviceBuffer marks_;
  DeviceBuffer block_values_;
  std::vector<TotalView> totals_;
  std::vector<void*> pinned_;
  std::deque<Leaving> leaving_;
  std::vector<Event> events_;  // one per range of a step, reused
  std::size_t ranges_ = 0;     // ranges told of in this step
  Event computed_;
  Event copied_;
};

}  // namespace lockstep::cuda
