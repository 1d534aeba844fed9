#pragma once

#include <memory>
#include <utility>

#include "comm/sync/gradient_sync.h"
#include "model/cuda/host_engine.h"
#include "model/cuda/late_machine.h"
#include "trainer/step/compute_device.h"
#include "trainer/step/host_step.h"

namespace lockstep::test {

/// A synchroniser that only enqueues, as NcclSync: the exchange lies on a stream of its own, ordered with the
/// computing one by events, and is the host's synchroniser when its turn comes.
class LateSync final : public GradientSync {
 public:
  LateSync(std::unique_ptr<GradientSync> inner, std::shared_ptr<LateStreams> streams)
      : inner_(std::move(inner)),
        streams_(std::move(streams)),
        ready_(streams_->make_event()),
        done_(streams_->make_event()) {}

  const std::vector<Node>& subtrees() const override { return inner_->subtrees(); }
  std::span<float> slot(std::size_t i) override { return inner_->slot(i); }
  std::int64_t buckets() const override { return inner_->buckets(); }
  Range bucket(std::int64_t b) const override { return inner_->bucket(b); }
  void begin_step(std::int64_t step) override {
    // Before the compute stream writes a slot, since peers read it in place.
    streams_->enqueue(LateStreams::compute, [this, step] { inner_->begin_step(step); });
  }
  void ready(Range range) override {
    streams_->record(ready_, LateStreams::compute);
    streams_->wait(ready_, LateStreams::exchange);
    streams_->enqueue(LateStreams::exchange, [this, range] {
      inner_->ready(range);
      inner_->progress();
    });
  }
  void progress() override {}
  void finish() override {
    behind_compute([this] { inner_->finish(); });
  }
  std::span<const TotalView> totals() const override { return inner_->totals(); }
  std::span<const double> finite_marks() const override { return inner_->finite_marks(); }
  std::span<double> block_values() override { return inner_->block_values(); }
  void gather_block_values() override {
    behind_compute([this] { inner_->gather_block_values(); });
  }
  std::span<const Range> shard() const override { return inner_->shard(); }
  std::span<float> parameters() override { return inner_->parameters(); }
  void publish_parameters() override {
    behind_compute([this] {
      inner_->publish_parameters();
      inner_->gather_parameters(0, 1);
    });
  }
  void gather_parameters(int, int) override {}
  Traffic traffic() const override { return inner_->traffic(); }

 private:
  void behind_compute(std::function<void()> work) {
    streams_->record(ready_, LateStreams::compute);
    streams_->wait(ready_, LateStreams::exchange);
    streams_->enqueue(LateStreams::exchange, std::move(work));
    streams_->record(done_, LateStreams::exchange);
    streams_->wait(done_, LateStreams::compute);
  }

  std::unique_ptr<GradientSync> inner_;
  std::shared_ptr<LateStreams> streams_;
  int ready_, done_;
};

/// The host in the part of a GPU on which everything is only enqueued.
inline ComputeDevice late_device(const std::shared_ptr<LateStreams>& streams, bool graphs = false,
                                 cuda::Precision precision = cuda::Precision::fp32) {
  ComputeDevice device;
  device.name = "late";
  device.compile = [=](const Graph& graph, const ExecutorOptions& options, LanePool&, Timeline*) {
    cuda::CudaOptions cuda_options;
    cuda_options.precision = precision;
    return make_host_engine(graph, options, cuda_options, std::make_unique<LateMachine>(streams, graphs), 700)
        .executor;
  };
  device.make_sync = [=](Communicator& comm, std::int64_t elements, const GradientSyncOptions& options,
                         Timeline* timeline) -> std::unique_ptr<GradientSync> {
    return std::make_unique<LateSync>(GradientSync::create(comm, elements, options, timeline), streams);
  };
  device.make_step = [=] { return make_host_step(std::make_unique<LateMachine>(streams, graphs)); };
  device.only_enqueues = true;
  device.captures_steps = graphs;
  device.scales_loss = precision == cuda::Precision::fp16;
  return device;
}

}  // namespace lockstep::test
