#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/gradient_sync.h"
#include "model/cuda/work_optimizer.h"

namespace lockstep {

/// What a training step does on a device whose memory holds the flat parameters, gradients and optimizer
/// state. All addresses are the device's. What reads waits for everything that was enqueued before; the rest
/// only enqueues.
class DeviceStep {
 public:
  virtual ~DeviceStep() = default;

  virtual void write(float* device, std::span<const float> host) = 0;
  virtual void read(const float* device, std::span<float> host) = 0;
  virtual void read(const double* device, std::span<double> host) = 0;

  /// Once: `buffers` state buffers of `elements`, zeroed, and the tables that update() needs.
  virtual void prepare(std::size_t buffers, std::int64_t elements,
                       const std::vector<cuda::GranuleKind>& kinds, cuda::UpdateRule rule) = 0;
  virtual float* state(std::size_t buffer) = 0;

  /// As Optimizer::sum_squares(), into host memory. Blocks that `totals` does not cover are left alone.
  virtual void sum_squares(std::span<const TotalView> totals, std::span<double> sums) = 0;
  /// One optimizer step over all totals, one kernel each; state_offsets[i] is where totals[i] begins in the
  /// state.
  virtual void update(std::span<const TotalView> totals, std::span<const std::int64_t> state_offsets,
                      float* parameters, const cuda::UpdateFactors& factors) = 0;
};

}  // namespace lockstep
