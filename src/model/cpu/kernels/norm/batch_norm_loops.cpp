#include "model/cpu/kernels/norm/batch_norm_loops.h"

#include <type_traits>

namespace lockstep::cpu {
namespace {

/// A full group has a width that the compiler knows: its loops over lanes become vector instructions. Results
/// go through a local array, so that the compiler need not fear that they overwrite operands; it keeps the
/// array in registers.
using Full = std::integral_constant<std::int64_t, lanes>;

/// Calls part(first element, groups, stride, width) for the groups and for the tail of each row.
template <class Part>
LOCKSTEP_INLINE void over(const StripRun& run, Part part) {
  const StripRun r = run;
  const bool full = r.width == lanes;
  // What the compiler's width does not cover: the tail, or everything in narrow groups.
  const std::int64_t rest_at = full ? r.groups * r.stride : 0;
  const std::int64_t rest_groups = full ? 1 : r.groups;
  const std::int64_t rest_width = full ? r.tail : r.width;
  for (std::int64_t row = 0; row < r.rows; ++row) {
    const std::int64_t first = r.offset + row * r.row_stride;
    if (full) part(first, r.groups, r.stride, Full{});
    if (rest_width > 0) part(first + rest_at, rest_groups, r.stride, rest_width);
  }
}

template <Gate gate>
LOCKSTEP_INLINE float pass(const float* x, const float* y, const float* diff, std::int64_t i,
                           const StripAffine& a, std::int64_t l) {
  if constexpr (gate == Gate::open) return diff[i];
  if constexpr (gate == Gate::output) return y[i] > 0.0f ? diff[i] : 0.0f;
  return (x[i] - a.mean[l]) * a.scale[l] + a.bias[l] > 0.0f ? diff[i] : 0.0f;
}

template <bool with_residual, bool relu>
LOCKSTEP_INLINE void normalise_run(const float* x, const float* residual, float* y, const StripRun& run,
                                   const StripAffine& affine) {
  const StripAffine a = affine;
  over(run, [=](std::int64_t first, std::int64_t groups, std::int64_t stride, auto width) {
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t at = first + g * stride;
      float out[lanes];
      for (std::int64_t l = 0; l < width; ++l) {
        float z = (x[at + l] - a.mean[l]) * a.scale[l] + a.bias[l];
        if constexpr (with_residual) z += residual[at + l];
        // Written so that NaN stays NaN.
        if constexpr (relu) z = z < 0.0f ? 0.0f : z;
        out[l] = z;
      }
      for (std::int64_t l = 0; l < width; ++l) y[at + l] = out[l];
    }
  });
}

template <Gate gate>
LOCKSTEP_INLINE void add_gradients_run(const float* x, const float* y, const float* diff, const StripRun& run,
                                       const StripAffine& affine, StripGradients& gradients) {
  const StripAffine a = affine;
  StripGradients total = gradients;
  over(run, [=, &total](std::int64_t first, std::int64_t groups, std::int64_t stride, auto width) {
    std::int64_t g = 0;
    for (; g + 4 <= groups; g += 4) {
      const std::int64_t at = first + g * stride;
      for (std::int64_t l = 0; l < width; ++l) {
        const std::int64_t i0 = at + l;
        const std::int64_t i1 = i0 + stride;
        const std::int64_t i2 = i1 + stride;
        const std::int64_t i3 = i2 + stride;
        const float g0 = pass<gate>(x, y, diff, i0, a, l);
        const float g1 = pass<gate>(x, y, diff, i1, a, l);
        const float g2 = pass<gate>(x, y, diff, i2, a, l);
        const float g3 = pass<gate>(x, y, diff, i3, a, l);
        const float p01 = g0 * (x[i0] - a.mean[l]) + g1 * (x[i1] - a.mean[l]);
        const float p23 = g2 * (x[i2] - a.mean[l]) + g3 * (x[i3] - a.mean[l]);
        total.sum[l] += static_cast<double>((g0 + g1) + (g2 + g3));
        total.products[l] += static_cast<double>(p01 + p23);
      }
    }
    for (; g < groups; ++g) {
      const std::int64_t at = first + g * stride;
      for (std::int64_t l = 0; l < width; ++l) {
        const float passed = pass<gate>(x, y, diff, at + l, a, l);
        total.sum[l] += static_cast<double>(passed);
        total.products[l] += static_cast<double>(passed * (x[at + l] - a.mean[l]));
      }
    }
  });
  gradients = total;
}

template <Gate gate>
LOCKSTEP_INLINE void differentiate_run(const float* x, const float* y, const float* diff, float* dx,
                                       float* gated, const StripRun& run, const StripAffine& affine,
                                       const StripCorrection& correction) {
  const StripAffine a = affine;
  const StripCorrection c = correction;
  over(run, [=](std::int64_t first, std::int64_t groups, std::int64_t stride, auto width) {
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t at = first + g * stride;
      float passed[lanes];
      float out[lanes];
      for (std::int64_t l = 0; l < width; ++l) {
        passed[l] = pass<gate>(x, y, diff, at + l, a, l);
        out[l] = a.scale[l] * ((passed[l] - c.of_mean[l]) - (x[at + l] - a.mean[l]) * c.of_variance[l]);
      }
      if (dx != nullptr) {
        for (std::int64_t l = 0; l < width; ++l) dx[at + l] = out[l];
      }
      if (gated != nullptr) {
        for (std::int64_t l = 0; l < width; ++l) gated[at + l] = passed[l];
      }
    }
  });
}

}  // namespace

LOCKSTEP_CLONES void add_moments(const float* x, const StripRun& run, StripMoments& moments) {
  StripMoments m = moments;
  over(run, [=, &m](std::int64_t first, std::int64_t groups, std::int64_t stride, auto width) {
    std::int64_t g = 0;
    for (; g + 4 <= groups; g += 4) {
      const std::int64_t at = first + g * stride;
      for (std::int64_t l = 0; l < width; ++l) {
        const double d0 = static_cast<double>(x[at + l]) - m.shift[l];
        const double d1 = static_cast<double>(x[at + stride + l]) - m.shift[l];
        const double d2 = static_cast<double>(x[at + 2 * stride + l]) - m.shift[l];
        const double d3 = static_cast<double>(x[at + 3 * stride + l]) - m.shift[l];
        m.sum[l] += (d0 + d1) + (d2 + d3);
        m.squares[l] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
      }
    }
    for (; g < groups; ++g) {
      const std::int64_t at = first + g * stride;
      for (std::int64_t l = 0; l < width; ++l) {
        const double d = static_cast<double>(x[at + l]) - m.shift[l];
        m.sum[l] += d;
        m.squares[l] += d * d;
      }
    }
  });
  moments = m;
}

LOCKSTEP_CLONES void normalise(const float* x, const float* residual, float* y, const StripRun& run,
                               const StripAffine& affine, bool relu) {
  if (residual != nullptr) {
    if (relu) {
      normalise_run<true, true>(x, residual, y, run, affine);
    } else {
      normalise_run<true, false>(x, residual, y, run, affine);
    }
  } else if (relu) {
    normalise_run<false, true>(x, residual, y, run, affine);
  } else {
    normalise_run<false, false>(x, residual, y, run, affine);
  }
}

LOCKSTEP_CLONES void add_gradients(const float* x, const float* y, const float* diff, const StripRun& run,
                                   const StripAffine& affine, Gate gate, StripGradients& gradients) {
  switch (gate) {
    case Gate::open:
      return add_gradients_run<Gate::open>(x, y, diff, run, affine, gradients);
    case Gate::output:
      return add_gradients_run<Gate::output>(x, y, diff, run, affine, gradients);
    case Gate::computed:
      return add_gradients_run<Gate::computed>(x, y, diff, run, affine, gradients);
  }
}

LOCKSTEP_CLONES void differentiate(const float* x, const float* y, const float* diff, float* dx, float* gated,
                                   const StripRun& run, const StripAffine& affine,
                                   const StripCorrection& correction, Gate gate) {
  switch (gate) {
    case Gate::open:
      return differentiate_run<Gate::open>(x, y, diff, dx, gated, run, affine, correction);
    case Gate::output:
      return differentiate_run<Gate::output>(x, y, diff, dx, gated, run, affine, correction);
    case Gate::computed:
      return differentiate_run<Gate::computed>(x, y, diff, dx, gated, run, affine, correction);
  }
}

}  // namespace lockstep::cpu
