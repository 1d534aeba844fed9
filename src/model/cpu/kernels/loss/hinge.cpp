#include "model/cpu/kernels/loss/loss_kernel.h"

namespace lockstep::cpu {
namespace {

class Hinge final : public LossKernel {
 public:
  explicit Hinge(const KernelSpec& spec) : LossKernel("hinge", spec) {}

 private:
  void rows(const float* scores, const Batch& batch, float* diffs, LossSums* sums) const override {
    const std::int64_t classes = width();
    const auto* labels = answers<std::int32_t>(batch);
    for (std::int64_t row = 0; row < batch.valid; ++row) {
      const float* x = scores + row * classes;
      const std::int64_t label = labels[row];
      std::int64_t rival = label == 0 ? 1 : 0;
      for (std::int64_t c = rival + 1; c < classes; ++c)
        if (c != label && (x[c] > x[rival] || x[c] != x[c])) rival = c;
      const double margin = 1.0 + static_cast<double>(x[rival]) - static_cast<double>(x[label]);
      // Written so that NaN stays NaN.
      sums[row] = {margin <= 0 ? 0.0 : margin, first_maximum(x, classes, label) ? 1.0 : 0.0, 1, 1};
      if (diffs == nullptr) continue;
      float* diff = diffs + row * classes;
      std::fill(diff, diff + classes, 0.0f);
      if (margin <= 0) continue;
      diff[rival] = 1.0f;
      diff[label] = -1.0f;
    }
  }
};

}  // namespace

std::unique_ptr<Kernel> make_hinge(const KernelSpec& spec) {
  return std::make_unique<Hinge>(spec);
}

}  // namespace lockstep::cpu
