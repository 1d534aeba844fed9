#pragma once

#include <cstdint>

#include "model/cpu/kernels/vector_math.h"

namespace lockstep::cpu {

/// What a strip of channels has in some rows. Row r begins at offset + r * row_stride (the stride may be
/// negative) and holds `groups` groups of `width` lanes, `stride` elements apart, then (stride == width == 16
/// only) `tail` lanes more. A lane always belongs to the same channel.
struct StripRun {
  std::int64_t offset = 0;
  std::int64_t rows = 0;
  std::int64_t row_stride = 0;
  std::int64_t groups = 0;
  std::int64_t stride = 0;
  std::int64_t width = lanes;  ///< 1 to 16
  std::int64_t tail = 0;       ///< 0 to 15
};

/// Per lane: y = (x - mean) * scale + bias.
struct StripAffine {
  float mean[lanes] = {};
  float scale[lanes] = {};
  float bias[lanes] = {};
};

/// Per lane: the sum over the run of x - shift and of its square, in float64.
struct StripMoments {
  double shift[lanes] = {};
  double sum[lanes] = {};
  double squares[lanes] = {};
};

/// Per lane: the sum of the gradient g behind the ReLU, and of g * (x - mean). Products and sums of four
/// terms in float32, the rest in float64: the relative error against the sum of magnitudes stays below 5 *
/// 2^-24.
struct StripGradients {
  double sum[lanes] = {};
  double products[lanes] = {};
};

/// Per lane: dx = scale * (g - of_mean - (x - mean) * of_variance).
struct StripCorrection {
  float of_mean[lanes] = {};
  float of_variance[lanes] = {};
};

/// Which gradients pass the ReLU.
enum class Gate {
  open,     ///< there is no ReLU
  output,   ///< where the output is above 0
  computed  ///< where (x - mean) * scale + bias is above 0: the same bits as the output, one buffer less to
            ///< read
};

// Each works on one run of whole buffers. `residual`, `y` (for gates other than `output`), `dx` and `gated`
// (the gradient behind the ReLU) may be null.
void add_moments(const float* x, const StripRun& run, StripMoments& moments);
void normalise(const float* x, const float* residual, float* y, const StripRun& run,
               const StripAffine& affine, bool relu);
void add_gradients(const float* x, const float* y, const float* diff, const StripRun& run,
                   const StripAffine& affine, Gate gate, StripGradients& gradients);
void differentiate(const float* x, const float* y, const float* diff, float* dx, float* gated,
                   const StripRun& run, const StripAffine& affine, const StripCorrection& correction,
                   Gate gate);

}  // namespace lockstep::cpu
