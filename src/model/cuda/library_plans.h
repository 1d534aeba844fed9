#pragma once

#include <memory>
#include <string>

#include "device/cuda/stream.h"
#include "model/cuda/conv_passes.h"
#include "model/cuda/options.h"
#include "model/cuda/plan.h"
#include "model/cuda/plan_names.h"

// The libraries behind convolutions and dense layers. Each picks its plans when it is made or asked to, under
// the limits of CudaOptions, or takes those that are named; and tells their names.

namespace lockstep::cuda {

/// The norm in front of a convolution, see NormInFront.
struct NormTensors {
  const void* x = nullptr;
  const float* mean = nullptr;
  const float* inverse = nullptr;
  const float* gamma = nullptr;
  const float* beta = nullptr;
  float* sums = nullptr;  ///< NormInFront::results rows
};
/// What a convolution takes and gives, besides the two factors. Null where the pass has none.
struct ConvTensors {
  const void* a = nullptr;  ///< forward: x; data: dy; weights: x
  const void* b = nullptr;  ///< forward and data: weights; weights: dy
  void* out = nullptr;      ///< y, dx or dw
  const void* bias = nullptr;
  const float* scale = nullptr;
  const float* shift = nullptr;
  const void* residual = nullptr;
  float* sum = nullptr;      ///< of y
  float* squares = nullptr;  ///< sum of y squared
  NormTensors norm = {};     ///< for data_norm
};

/// Convolutions by cuDNN's graph API, channels-last. One plan for each pass and shape, made by prepare().
class ConvLibrary {
 public:
  /// Throws DeviceError when cuDNN cannot be used.
  ConvLibrary(const CudaOptions& options, const Stream& compute);
  ~ConvLibrary();
  /// Makes a plan if there is one within the limits: true. `wanted`: the plan's name, or empty for the
  /// library's choice; throws DeviceError where the named plan cannot be had.
  bool prepare(ConvPass pass, const ConvShape& shape, const std::string& wanted);
  void run(ConvPass pass, const ConvShape& shape, const ConvTensors& tensors, void* workspace) const;
  /// The name of a plan that was made.
  std::string name(ConvPass pass, const ConvShape& shape) const;
  std::size_t workspace_bytes() const;  ///< of the plan that takes most
  static std::string version();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

enum class DensePass { forward, forward_relu, forward_bias, forward_bias_relu, data, weights };

/// Dense layers by cuBLASLt with its epilogues. The gradient of weights is float32 in every precision.
class DenseLibrary {
 public:
  DenseLibrary(const CudaOptions& options, const Stream& compute);
  ~DenseLibrary();
  bool prepare(DensePass pass, const DenseShape& shape, const std::string& wanted);
  /// forward: a = x, b = weights; data: a = dy, b = weights; weights: a = x, b = dy.
  void run(DensePass pass, const DenseShape& shape, const void* a, const void* b, const void* bias, void* out,
           void* workspace) const;
  std::string name(DensePass pass, const DenseShape& shape) const;
  std::size_t workspace_bytes() const;
  static std::string version();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// For names and messages, as for convolutions.
std::string describe(DensePass pass, const DenseShape& shape);

}  // namespace lockstep::cuda
