#pragma once

#include "model/cpu/kernels/loss/loss_kernel.h"

namespace lockstep::cpu {

/// The mean over outputs of a function of one output and its target, in float64.
template <class Function>
class PerTargetKernel final : public LossKernel {
 public:
  PerTargetKernel(const std::string& name, const KernelSpec& spec)
      : LossKernel(name, spec), function_(spec.op().attrs) {}

 private:
  void rows(const float* x, const Batch& batch, float* diff, LossSums* sums) const override {
    const std::int64_t outputs = width();
    const auto* targets = answers<float>(batch);
    const double share = 1.0 / static_cast<double>(outputs);
    for (std::int64_t row = 0; row < batch.valid; ++row) {
      double sum = 0;
      for (std::int64_t i = row * outputs; i < (row + 1) * outputs; ++i) {
        const auto value = static_cast<double>(x[i]);
        const auto target = static_cast<double>(targets[i]);
        sum += function_.value(value, target);
        if (diff != nullptr) diff[i] = static_cast<float>(share * function_.slope(value, target));
      }
      sums[row] = {sum * share, 0, 1, 0};
    }
  }
  Function function_;
};

}  // namespace lockstep::cpu
