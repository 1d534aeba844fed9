#pragma once

#include <cmath>
#include <cstdint>

#include "model/cuda/kernels/work_elementwise.h"

// Batch norm, element by element: with the statistics and sums of work_reduce.h.

namespace lockstep::cuda {

/// For inference: the running statistics in the form that NormApply takes. Item: channel.
struct NormRunning {
  const float* running_mean;
  const float* running_variance;
  float* mean;
  float* inverse;
  double epsilon;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t c) const {
    mean[c] = running_mean[c];
    inverse[c] = static_cast<float>(1.0 / sqrt(static_cast<double>(running_variance[c]) + epsilon));
  }
};

/// For inference behind a convolution, in one with it: gamma (x + bias - mean) / deviation + beta is scale x
/// + shift. Item: channel.
struct NormFactors {
  const float* running_mean;
  const float* running_variance;
  const float* gamma;
  const float* beta;
  const float* bias;  ///< of the convolution; may be null
  float* scale;
  float* shift;
  double epsilon;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t c) const {
    const double deviation = sqrt(static_cast<double>(running_variance[c]) + epsilon);
    scale[c] = static_cast<float>(static_cast<double>(gamma[c]) / deviation);
    const double middle =
        static_cast<double>(running_mean[c]) - (bias != nullptr ? static_cast<double>(bias[c]) : 0.0);
    // With the scale as it was rounded: where x is near the mean, the two products cancel.
    shift[c] = static_cast<float>(static_cast<double>(beta[c]) - middle * static_cast<double>(scale[c]));
  }
};

/// y = gamma (x - mean) / deviation + beta (+ residual), max(., 0). Empty rows get 0. Item: element.
template <class T>
struct NormApply {
  const T* x;
  const T* residual;  ///< may be null
  T* y;               ///< may be x
  const float* mean;
  const float* inverse;
  const float* gamma;
  const float* beta;
  const SliceHeader* header;
  std::int64_t channels, pixels;
  bool relu;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t c = i % channels;
    float z = 0.0f;
    if (i < header->valid * pixels * channels) {
      z = (load(x[i]) - mean[c]) * (inverse[c] * gamma[c]) + beta[c];
      if (residual != nullptr) z += load(residual[i]);
      if (relu) z = relu_of(z);
    }
    store(y[i], z);
  }

  struct Kept {
    Eight mean, scale, beta;
    std::uint32_t valid;  ///< packs
  };
  struct In {
    Pack<T> x, residual;
  };
  std::int64_t pack_channels() const { return channels; }
  bool pack_addresses() const {
    return begin_packs(x, residual, y) && begin_packs(mean, inverse, gamma, beta);
  }
  LOCKSTEP_HOST_DEVICE Kept begin(std::uint32_t c) const {
    Kept kept{load_eight(mean, c), load_eight(inverse, c), load_eight(beta, c),
              static_cast<std::uint32_t>(header->valid * pixels * (channels / pack_elements))};
    const Eight factor = load_eight(gamma, c);
    for (int j = 0; j < pack_elements; ++j) kept.scale.v[j] *= factor.v[j];
    return kept;
  }
  /// What empty rows hold is read, and not used.
  LOCKSTEP_HOST_DEVICE In read(std::uint32_t i, const Kept&) const {
    return {read_pack(x, i), residual != nullptr ? read_pack(residual, i) : Pack<T>{}};
  }
  LOCKSTEP_HOST_DEVICE void write(std::uint32_t i, const In& in, const Kept& kept) const {
    Eight z = load(in.x);
    for (int j = 0; j < pack_elements; ++j)
      z.v[j] = (z.v[j] - kept.mean.v[j]) * kept.scale.v[j] + kept.beta.v[j];
    if (residual != nullptr) {
      const Eight other = load(in.residual);
      for (int j = 0; j < pack_elements; ++j) z.v[j] += other.v[j];
    }
    if (relu)
      for (float& v : z.v) v = relu_of(v);
    store(y, i, i < kept.valid ? z : Eight{});
  }
};

/// Where the ReLU behind a norm that adds nothing let values through: where the norm gives from its input, in
/// the order of NormApply, what is positive as it is stored. The same bits as the sign of its result, which
/// so need not be read.
template <class T>
struct ReluSign {
  const float* gamma = nullptr;  ///< null: there is no ReLU, or the gradient was masked
  const float* beta = nullptr;
  LOCKSTEP_HOST_DEVICE float mask(float g, float x, const float* mean, const float* inverse,
                                  std::int64_t c) const {
    if (gamma == nullptr) return g;
    const float z = (x - mean[c]) * (inverse[c] * gamma[c]) + beta[c];
    return !(z > stored_as_zero(T{})) ? 0.0f : g;
  }

  struct Kept {
    Eight scale, beta;
  };
  bool pack_addresses() const { return begin_packs(gamma, beta); }
  LOCKSTEP_HOST_DEVICE Kept begin(std::uint32_t c, const Eight& inverse) const {
    if (gamma == nullptr) return {};
    Kept kept{inverse, load_eight(beta, c)};
    const Eight factor = load_eight(gamma, c);
    for (int j = 0; j < pack_elements; ++j) kept.scale.v[j] *= factor.v[j];
    return kept;
  }
  LOCKSTEP_HOST_DEVICE static Eight mask(Eight g, const Eight& x, const Eight& mean, const Kept& kept) {
    for (int j = 0; j < pack_elements; ++j) {
      const float z = (x.v[j] - mean.v[j]) * kept.scale.v[j] + kept.beta.v[j];
      g.v[j] = !(z > stored_as_zero(T{})) ? 0.0f : g.v[j];
    }
    return g;
  }
};

/// dx = gamma / deviation (dy - mean(dy) - xhat mean(dy xhat)): Ioffe and Szegedy 2015, the formulas of
/// section 3. Empty rows get 0. Item: element.
template <class T>
struct NormBackward {
  const T* x;
  const T* dy;
  ReluSign<T> sign;
  T* dx;         ///< may be null
  T* dresidual;  ///< the same as dy; may be null
  const float* mean;
  const float* inverse;
  const float* gamma;
  const float* dgamma;
  const float* dbeta;
  const SliceHeader* header;
  std::int64_t channels, pixels;
  LOCKSTEP_HOST_DEVICE void operator()(std::int64_t i) const {
    const std::int64_t c = i % channels;
    const std::int64_t rows = header->valid * pixels;
    float g = 0.0f, out = 0.0f;
    if (i < rows * channels) {
      const float share = 1.0f / static_cast<float>(rows);
      g = sign.mask(load(dy[i]), load(x[i]), mean, inverse, c);
      const float xhat = (load(x[i]) - mean[c]) * inverse[c];
      out = gamma[c] * inverse[c] * ((g - dbeta[c] * share) - xhat * (dgamma[c] * share));
    }
    if (dx != nullptr) store(dx[i], out);
    if (dresidual != nullptr) store(dresidual[i], g);
  }

  struct Kept {
    Eight mean, inverse, scale, dbeta, dgamma;
    typename ReluSign<T>::Kept sign;
    std::uint32_t valid;  ///< packs
  };
  struct In {
    Pack<T> x, dy;
  };
  std::int64_t pack_channels() const { return channels; }
  bool pack_addresses() const {
    return begin_packs(x, dy, dx, dresidual) && begin_packs(mean, inverse, gamma, dgamma, dbeta) &&
           sign.pack_addresses();
  }
  LOCKSTEP_HOST_DEVICE Kept begin(std::uint32_t c) const {
    const std::int64_t rows = header->valid * pixels;
    Kept kept{load_eight(mean, c),
              load_eight(inverse, c),
              load_eight(gamma, c),
              load_eight(dbeta, c),
              load_eight(dgamma, c),
              sign.begin(c, load_eight(inverse, c)),
              static_cast<std::uint32_t>(rows * (channels / pack_elements))};
    const float share = 1.0f / static_cast<float>(rows);
    for (int j = 0; j < pack_elements; ++j) {
      kept.scale.v[j] *= kept.inverse.v[j];
      kept.dbeta.v[j] *= share;
      kept.dgamma.v[j] *= share;
    }
    return kept;
  }
  /// What empty rows hold is read, and not used.
  LOCKSTEP_HOST_DEVICE In read(std::uint32_t i, const Kept&) const {
    return {read_pack(x, i), read_pack(dy, i)};
  }
  LOCKSTEP_HOST_DEVICE void write(std::uint32_t i, const In& in, const Kept& kept) const {
    const Eight at = load(in.x);
    Eight g = load(in.dy);
    if (sign.gamma != nullptr) g = sign.mask(g, at, kept.mean, kept.sign);
    if (i >= kept.valid) g = Eight{};
    if (dresidual != nullptr) store(dresidual, i, g);
    if (dx == nullptr) return;
    Eight out;
    for (int j = 0; j < pack_elements; ++j) {
      const float xhat = (at.v[j] - kept.mean.v[j]) * kept.inverse.v[j];
      out.v[j] = kept.scale.v[j] * ((g.v[j] - kept.dbeta.v[j]) - xhat * kept.dgamma.v[j]);
    }
    store(dx, i, i < kept.valid ? out : Eight{});
  }
};

}  // namespace lockstep::cuda
