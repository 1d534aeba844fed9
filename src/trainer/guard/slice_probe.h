#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "core/flight_recorder.h"
#include "device/memory.h"
#include "model/plan/executor.h"
#include "trainer/step/compute_device.h"

namespace lockstep {

class LanePool;

/// Computes one slice by itself, with all lanes of this rank: the same bits as in a training step, in memory
/// of its own and without a word to other ranks. For those who check what a step has computed.
class SliceProbe {
 public:
  /// Compiles the graph and takes memory for one gradient. `lanes` must outlive it. `plan_choice`:
  /// of the training executor, so that bits are equal, and so are `transforms`, for batches of the same
  /// loader. `recorder`, told of progress, may be null.
  SliceProbe(const Graph& graph, std::int64_t slice_rows, LanePool& lanes, const ComputeDevice& device = {},
             const std::string& plan_choice = {}, FlightRecorder* recorder = nullptr,
             std::vector<FieldTransform> transforms = {});

  /// Gradient and loss of `batch` at `parameters`, which have the layout of executor(). `listener` and
  /// `inspector` may be null.
  SliceResult compute(const Batch& batch, std::span<const float> parameters, std::uint64_t seed,
                      std::int64_t step, SliceGradientListener* listener = nullptr,
                      OpInspector* inspector = nullptr);
  /// By which the device multiplies the loss, and divides gradients again; 1 before the first call. That of
  /// the step, or what is too small for the format would be lost here and not there.
  void set_loss_scale(float scale) { loss_scale_ = scale; }
  /// Of the last compute(): the flat sum over the slice's valid rows.
  std::span<const float> gradient() const { return gradient_.as<float>(); }
  const Executor& executor() const { return *executor_; }
  std::int64_t rows() const { return rows_; }

 private:
  std::int64_t rows_;
  float loss_scale_ = 1;
  FlightRecorder* recorder_;
  std::unique_ptr<Executor> executor_;
  HostBuffer gradient_;
};

}  // namespace lockstep
