#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "comm/sync/gradient_sync.h"
#include "model/cuda/host_engine.h"
#include "trainer/step/compute_device.h"
#include "trainer/step/host_step.h"

namespace lockstep::test {

/// What a device that the host plays was asked for, on one rank.
struct Told {
  std::int64_t uploads = 0;       ///< copies of a training step to the device, without those of inputs
  std::vector<std::string> ends;  ///< what ended, in order
};

/// The step's queue: counts its uploads, and tells when its memory is freed.
class ToldMachine : public HostMachine {
 public:
  explicit ToldMachine(std::shared_ptr<Told> told, std::string name = "step")
      : told_(std::move(told)), name_(std::move(name)) {}
  ~ToldMachine() override { told_->ends.push_back("memory of the " + name_); }
  void copy_in(void* device, const void* pinned, std::size_t bytes, cuda::Lane lane) override {
    if (name_ == "step") ++told_->uploads;
    HostMachine::copy_in(device, pinned, bytes, lane);
  }

 private:
  std::shared_ptr<Told> told_;
  std::string name_;
};

/// The host's synchroniser, which tells when it is abandoned and when it ends.
class ToldSync final : public GradientSync {
 public:
  ToldSync(std::unique_ptr<GradientSync> inner, std::shared_ptr<Told> told)
      : inner_(std::move(inner)), told_(std::move(told)) {}
  ~ToldSync() override { told_->ends.push_back("synchroniser"); }
  void abandon(const std::string& why) noexcept override { told_->ends.push_back("abandoned: " + why); }

  const std::vector<Node>& subtrees() const override { return inner_->subtrees(); }
  std::span<float> slot(std::size_t i) override { return inner_->slot(i); }
  std::int64_t buckets() const override { return inner_->buckets(); }
  Range bucket(std::int64_t b) const override { return inner_->bucket(b); }
  void begin_step(std::int64_t step) override { inner_->begin_step(step); }
  void ready(Range range) override { inner_->ready(range); }
  void progress() override { inner_->progress(); }
  void finish() override { inner_->finish(); }
  std::span<const TotalView> totals() const override { return inner_->totals(); }
  std::span<const double> finite_marks() const override { return inner_->finite_marks(); }
  std::span<double> block_values() override { return inner_->block_values(); }
  void gather_block_values() override { inner_->gather_block_values(); }
  std::span<const Range> shard() const override { return inner_->shard(); }
  std::span<float> parameters() override { return inner_->parameters(); }
  void publish_parameters() override { inner_->publish_parameters(); }
  void gather_parameters(int lane, int lanes) override { inner_->gather_parameters(lane, lanes); }
  Traffic traffic() const override { return inner_->traffic(); }

 private:
  std::unique_ptr<GradientSync> inner_;
  std::shared_ptr<Told> told_;
};

inline ComputeDevice told_device(const std::shared_ptr<Told>& told) {
  ComputeDevice device;
  device.name = "told";
  device.compile = [told](const Graph& graph, const ExecutorOptions& options, LanePool&, Timeline*) {
    return make_host_engine(graph, options, cuda::CudaOptions{},
                            std::make_unique<ToldMachine>(told, "executor"), 700)
        .executor;
  };
  device.make_sync = [told](Communicator& comm, std::int64_t elements, const GradientSyncOptions& options,
                            Timeline* timeline) -> std::unique_ptr<GradientSync> {
    return std::make_unique<ToldSync>(GradientSync::create(comm, elements, options, timeline), told);
  };
  device.make_step = [told] { return make_host_step(std::make_unique<ToldMachine>(told)); };
  return device;
}

}  // namespace lockstep::test
