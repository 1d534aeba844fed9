#include <algorithm>
#include <cmath>

#include "model/cpu/kernels/own_kernel.h"
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

/// Whether x[label] is the first maximum; false where a NaN stands.
bool first_maximum(const float* x, std::int64_t n, std::int64_t label) {
  const float value = x[label];
  bool all = true;
  for (std::int64_t i = 0; i < label; ++i) all = all && x[i] < value;
  for (std::int64_t i = label; i < n; ++i) all = all && x[i] <= value;
  return all;
}

}  // namespace

SliceResult cross_entropy(std::int64_t classes, const float* logits, const SliceBatch& batch,
                          float* diff_logits) {
  require(static_cast<std::int64_t>(batch.labels.size()) >= batch.valid, "every valid row has a label");
  SliceResult result;
  for (std::int64_t row = 0; row < batch.valid; ++row) {
    const float* x = logits + row * classes;
    float* diff = diff_logits != nullptr ? diff_logits + row * classes : nullptr;
    const std::int64_t label = batch.labels[static_cast<std::size_t>(row)];
    const float shift = largest(x, classes);
    const double total = sum_exp(x, shift, classes, diff);
    result.loss += std::log(total) + (static_cast<double>(shift) - static_cast<double>(x[label]));
    if (first_maximum(x, classes, label)) result.correct += 1;
    if (diff != nullptr) {
      // In float64, so that a probability near one loses nothing to the subtraction but its own rounding.
      const double of_label = static_cast<double>(diff[label]) / total;
      scale_in_place(diff, 1.0 / total, classes);
      diff[label] = static_cast<float>(of_label - 1.0);
    }
  }
  if (diff_logits != nullptr) {
    std::fill(diff_logits + batch.valid * classes, diff_logits + batch.rows * classes, 0.0f);
  }
  result.weight = static_cast<double>(batch.valid);
  return result;
}

SliceResult mean_squared_error(std::int64_t outputs, const float* prediction, const SliceBatch& batch,
                               float* diff_prediction) {
  require(static_cast<std::int64_t>(batch.targets.size()) >= batch.valid * outputs,
          "every valid row has targets");
  SliceResult result;
  const double share = 1.0 / static_cast<double>(outputs);
  for (std::int64_t row = 0; row < batch.valid; ++row) {
    const float* x = prediction + row * outputs;
    const float* target = batch.targets.data() + row * outputs;
    double squares = 0;
    for (std::int64_t i = 0; i < outputs; ++i) {
      const double difference = static_cast<double>(x[i]) - static_cast<double>(target[i]);
      squares += difference * difference;
      if (diff_prediction != nullptr) {
        diff_prediction[row * outputs + i] = static_cast<float>(2.0 * share * difference);
      }
    }
    result.loss += squares * share;
  }
  if (diff_prediction != nullptr) {
    std::fill(diff_prediction + batch.valid * outputs, diff_prediction + batch.rows * outputs, 0.0f);
  }
  result.weight = static_cast<double>(batch.valid);
  return result;
}

}  // namespace lockstep::cpu
