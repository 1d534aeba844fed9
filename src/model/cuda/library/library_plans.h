#pragma once

#include <memory>
#include <string>

#include "model/cuda/plan/conv_passes.h"
#include "model/cuda/plan/dense_passes.h"
#include "model/cuda/plan/options.h"
#include "model/cuda/plan/plan.h"
#include "model/cuda/plan/plan_names.h"

// The libraries behind convolutions and dense layers. Each picks its plans when it is made or asked to, under
// the limits of CudaOptions, or takes those that are named; and tells their names.

namespace lockstep::cuda {

class Stream;

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

/// What one run of a plan reads and writes, in the device's memory.
struct PassTensors {
  const void* a;
  const void* b;
  void* bias;  ///< read, or its gradient that is written; null where the pass has none
  void* out;
  void* workspace;
  const void* third = nullptr;  ///< the residual, or the input of the norm in front; null where there is none
  float* rows = nullptr;        ///< ChannelRows, as many as channel_rows() says
  void* aux = nullptr;          ///< GELU's input, which a forward pass writes and a data gradient reads
};

/// Plans of one pass and shape within the limits of CudaOptions, one after another in the heuristics' order,
/// to be run and measured. The library must outlive it.
class PlanCandidates {
 public:
  virtual ~PlanCandidates() = default;
  /// Goes to the next plan that can be made, at first to the first; false where there is none.
  virtual bool next() = 0;
  virtual std::string name() const = 0;
  virtual std::size_t workspace_bytes() const = 0;
  /// Enqueues the plan on the library's stream. Throws DeviceError.
  virtual void run(const PassTensors& tensors) const = 0;
};

/// Convolutions by cuDNN's graph API, channels-last. One plan for each pass and shape, made by prepare().
class ConvLibrary {
 public:
  /// Throws DeviceError when cuDNN cannot be used.
  ConvLibrary(const CudaOptions& options, const Stream& compute);
  /// For a device that is not there, as cuDNN (9.8 and later) describes one
  /// (CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, JSON): tells which plans there would be; nothing can be run.
  /// Throws DeviceError where cuDNN does not take the description.
  ConvLibrary(const CudaOptions& options, const std::string& described_device);
  ~ConvLibrary();
  /// Makes a plan if there is one within the limits: true. `wanted`: the plan's name, or empty for the
  /// library's choice; throws DeviceError where the named plan cannot be had.
  bool prepare(ConvPass pass, const ConvShape& shape, const std::string& wanted);
  /// Makes the named plan if it can be had: true.
  bool offers(ConvPass pass, const ConvShape& shape, const std::string& plan);
  std::unique_ptr<PlanCandidates> candidates(ConvPass pass, const ConvShape& shape) const;
  void run(ConvPass pass, const ConvShape& shape, const ConvTensors& tensors, void* workspace) const;
  /// The name of a plan that was made.
  std::string name(ConvPass pass, const ConvShape& shape) const;
  std::size_t workspace_bytes() const;  ///< of the plan that takes most
  static std::string version();

 private:
  struct State;
  class Candidates;
  bool make(ConvPass pass, const ConvShape& shape, const std::string& wanted, std::string& reason);
  std::unique_ptr<State> state_;
};

/// Dense layers by cuBLASLt with its epilogues. The gradient of weights is float32 in every precision.
class DenseLibrary {
 public:
  DenseLibrary(const CudaOptions& options, const Stream& compute);
  ~DenseLibrary();
  bool prepare(DensePass pass, const DenseShape& shape, const std::string& wanted);
  /// Makes the named plan if it is one that the library would choose among: true.
  bool offers(DensePass pass, const DenseShape& shape, const std::string& plan);
  std::unique_ptr<PlanCandidates> candidates(DensePass pass, const DenseShape& shape) const;
  /// forward: a = x, b = weights; data: a = dy, b = weights; weights: a = x, b = dy.
  void run(DensePass pass, const DenseShape& shape, const PassTensors& tensors) const;
  std::string name(DensePass pass, const DenseShape& shape) const;
  std::size_t workspace_bytes() const;
  static std::string version();

 private:
  struct State;
  class Candidates;
  std::unique_ptr<State> state_;
};

/// Bytes of what a pass reads and writes; 0 of what it has not.
struct PassBytes {
  std::size_t a, b, bias, out;
  std::size_t third = 0, rows = 0, aux = 0;
  friend bool operator==(const PassBytes&, const PassBytes&) = default;
};
/// How many ChannelRows a pass reads or writes besides, for measuring it: scale and shift; both sums; or
/// mean, inverse, gamma, beta and the results of NormInFront.
int channel_rows(ConvPass pass);
PassBytes bytes_of(ConvPass pass, const ConvShape& shape, Precision precision);
PassBytes bytes_of(DensePass pass, const DenseShape& shape, Precision precision);

}  // namespace lockstep::cuda
