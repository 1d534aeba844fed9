#include "model/ops/loss/cross_entropy.h"

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
  explicit CrossEntropy(const KernelSpec& spec)
      : LossKernel("cross_entropy", spec),
        attrs_(attrs_of<CrossEntropyAttrs>(spec)),
        classes_(width() / each()) {
    for (std::int64_t c = 0; c < classes_; ++c) all_weights_ += weight_of(c);
  }

 private:
  void rows(const float* logits, const Batch& batch, float* diff_logits, LossSums* sums) const override {
    const auto* labels = answers<std::int32_t>(batch);
    for (std::int64_t row = 0; row < batch.valid; ++row) {
      LossSums of_row;
      for (std::int64_t v = row * each(); v < (row + 1) * each(); ++v) {
        const float* x = logits + v * classes_;
        float* diff = diff_logits != nullptr ? diff_logits + v * classes_ : nullptr;
        const std::int64_t label = labels[v];
        if (label == CrossEntropyAttrs::ignored) {
          if (diff != nullptr) std::fill_n(diff, classes_, 0.0f);
          continue;
        }
        require(label >= 0 && label < classes_, "a label outside the classes reached cross-entropy");
        attrs_.is_plain() ? plain(x, label, diff, of_row) : weighted(x, label, diff, of_row);
      }
      sums[row] = of_row;
    }
  }

  void plain(const float* x, std::int64_t label, float* diff, LossSums& sums) const {
    const float shift = largest(x, classes_);
    const double total = sum_exp(x, shift, classes_, diff);
    sums.loss += std::log(total) + (static_cast<double>(shift) - static_cast<double>(x[label]));
    sums.correct += first_maximum(x, classes_, label) ? 1.0 : 0.0;
    sums.weight += 1;
    sums.counted += 1;
    if (diff == nullptr) return;
    // In float64, so that a probability near one loses nothing to the subtraction but its own rounding.
    const double of_label = static_cast<double>(diff[label]) / total;
    scale_in_place(diff, 1.0 / total, classes_);
    diff[label] = static_cast<float>(of_label - 1.0);
  }

  /// With label smoothing or class weights.
  void weighted(const float* x, std::int64_t label, float* diff, LossSums& sums) const {
    const float shift = largest(x, classes_);
    const double total = sum_exp(x, shift, classes_, diff);
    const auto minus_log = [&](std::int64_t c) {
      return std::log(total) + (static_cast<double>(shift) - static_cast<double>(x[c]));
    };
    double of_all = 0;
    for (std::int64_t c = 0; c < classes_; ++c) of_all += weight_of(c) * minus_log(c);
    const double share = attrs_.smoothing / static_cast<double>(classes_);
    const double own = (1 - attrs_.smoothing) * weight_of(label);
    sums.loss += own * minus_log(label) + share * of_all;
    sums.correct += first_maximum(x, classes_, label) ? 1.0 : 0.0;
    sums.weight += weight_of(label);
    sums.counted += 1;
    if (diff == nullptr) return;
    const double factor = (own + share * all_weights_) / total;
    for (std::int64_t c = 0; c < classes_; ++c)
      diff[c] = static_cast<float>(factor * static_cast<double>(diff[c]) - share * weight_of(c) -
                                   (c == label ? own : 0.0));
  }

  double weight_of(std::int64_t c) const {
    return attrs_.class_weights.empty()
               ? 1.0
               : static_cast<double>(attrs_.class_weights[static_cast<std::size_t>(c)]);
  }
  CrossEntropyAttrs attrs_;
  std::int64_t classes_;
  double all_weights_ = 0;
};

}  // namespace

std::unique_ptr<Kernel> make_cross_entropy(const KernelSpec& spec) {
  return std::make_unique<CrossEntropy>(spec);
}

}  // namespace lockstep::cpu
