#pragma once

#include <memory>
#include <vector>

#include "comm/cuda/device_sync.h"

namespace lockstep::cuda {

/// A device synchroniser for a step whose gradients and parameters lie in host memory: slots, parameters,
/// totals and squares are pinned memory, and go to the device and back on the way. The mirror image of
/// StagedSync; it lets the trainer's host side use NCCL between GPUs. ready() sends a range on its way at
/// once, so the exchange overlaps with the backward pass as `device` does it.
class HostedSync final : public GradientSync {
 public:
  /// `stream`: the compute stream of `device`; must outlive it.
  HostedSync(std::unique_ptr<Stream> stream, std::unique_ptr<DeviceGradientSync> device,
             std::int64_t elements, const GradientSyncOptions& options, int ranks);
  ~HostedSync() override;

  const std::vector<Node>& subtrees() const override { return device_->subtrees(); }
  std::span<float> slot(std::size_t i) override;
  std::int64_t buckets() const override { return device_->buckets(); }
  Range bucket(std::int64_t b) const override { return device_->bucket(b); }
  void begin_step(std::int64_t step) override { device_->begin_step(step); }
  /// One thread, unlike that of the base.
  void ready(Range range) override;
  void progress() override { device_->progress(); }
  void finish() override;
  std::span<const TotalView> totals() const override { return totals_; }
  std::span<const double> squares() const override { return squares_.as<double>(); }
  std::span<const Range> shard() const override { return device_->shard(); }
  std::span<float> parameters() override { return parameters_.as<float>(); }
  void publish_parameters() override;
  void gather_parameters(int lane, int lanes) override;
  Traffic traffic() const override { return device_->traffic(); }

 private:
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<DeviceGradientSync> device_;
  std::int64_t elements_;
  bool exchanges_parameters_;
  std::vector<PinnedBuffer> slots_;
  PinnedBuffer parameters_;
  PinnedBuffer squares_;
  std::vector<TotalView> totals_;
  Event done_;
};

}  // namespace lockstep::cuda
