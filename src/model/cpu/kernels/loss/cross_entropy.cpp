#include <cmath>

#include "model/cpu/kernels/loss/loss_kernel.h"
#include "model/cpu/kernels/vector_math.h"

namespace lockstep::cpu {
namespace {

/// Elements whose exponentials are held on the stack at once.
constexpr std::int64_t chunk = 256;

/// The sum of e^(x[i] - shift) in float64; the terms go to `terms` unless it is null. The order of addition
/// does not depend on that, so evaluation and training give the same loss.
double sum_exp(const float* x, float shift, std::int64_t n, float* terms) {
  alignas(64) float buffer[chunk];
  double total = 0;
  for (std::int64_t begin = 0; begin < n; begin += chunk) {
    const std::int64_t count = std::min(chunk, n - begin);
    float* out = terms != nullptr ? terms + begin : buffer;
    exp_shifted(x + begin, shift, out, count);
    total += sum(out, count);
  }
  return total;
}

LOCKSTEP_CLONES void scale_in_place(float* x, double factor, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(static_cast<double>(x[i]) * factor);
}

class CrossEntropy final : public LossKernel {
 public:
  explicit CrossEntropy(const KernelSpec& spec) : LossKernel("cross_entropy", spec) {}

 private:
  void rows(const float* logits, const Batch& batch, float* diff_logits, LossSums* sums) const override {
    const std::int64_t classes = width();
    const auto* labels = answers<std::int32_t>(batch, 1);
    for (std::int64_t row = 0; row < batch.valid; ++row) {
      const float* x = logits + row * classes;
      float* diff = diff_logits != nullptr ? diff_logits + row * classes : nullptr;
      const std::int64_t label = labels[row];
      const float shift = largest(x, classes);
      const double total = sum_exp(x, shift, classes, diff);
      sums[row] = {std::log(total) + (static_cast<double>(shift) - static_cast<double>(x[label])),
                   first_maximum(x, classes, label) ? 1.0 : 0.0};
      if (diff != nullptr) {
        // In float64, so that a probability near one loses nothing to the subtraction but its own rounding.
        const double of_label = static_cast<double>(diff[label]) / total;
        scale_in_place(diff, 1.0 / total, classes);
        diff[label] = static_cast<float>(of_label - 1.0);
      }
    }
  }
};

}  // namespace

std::unique_ptr<Kernel> make_cross_entropy(const KernelSpec& spec) {
  return std::make_unique<CrossEntropy>(spec);
}

}  // namespace lockstep::cpu
