#pragma once

#include <map>
#include <memory>
#include <string>

#include "model/cuda/options.h"
#include "model/cuda/plan.h"

// The libraries behind convolutions and dense layers. Each picks its plans when it is made or asked to, under
// the limits of CudaOptions, or takes those that are named; and tells their names.

namespace lockstep::cuda {

class Stream;

/// Names of chosen plans, "<what is computed> = <plan>" a line.
class PlanNames {
 public:
  PlanNames() = default;
  /// Throws InternalError for text that is none.
  explicit PlanNames(const std::string& text);
  std::string text() const;
  /// The plan of `what`, or empty.
  const std::string& find(const std::string& what) const;
  void set(const std::string& what, const std::string& plan) { names_[what] = plan; }

 private:
  std::map<std::string, std::string> names_;
};

/// What a convolution is asked for. The bias is in the activations' format.
enum class ConvPass {
  forward,
  forward_relu,
  forward_bias,
  forward_bias_relu,
  data,
  weights,
  weights_16_bits
};

/// What one run of a plan reads and writes, in the device's memory.
struct PassTensors {
  const void* a;
  const void* b;
  const void* bias;  ///< null where the pass has none
  void* out;
  void* workspace;
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
  ~ConvLibrary();
  /// Makes a plan if there is one within the limits: true. `wanted`: the plan's name, or empty for the
  /// library's choice; throws DeviceError where the named plan cannot be had.
  bool prepare(ConvPass pass, const ConvShape& shape, const std::string& wanted);
  /// Makes the named plan if it can be had: true.
  bool offers(ConvPass pass, const ConvShape& shape, const std::string& plan);
  std::unique_ptr<PlanCandidates> candidates(ConvPass pass, const ConvShape& shape) const;
  /// forward: a = x, b = weights, bias or null, out = y; data: a = dy, b = weights, out = dx; weights: a = x,
  /// b = dy.
  void run(ConvPass pass, const ConvShape& shape, const void* a, const void* b, const void* bias, void* out,
           void* workspace) const;
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

enum class DensePass { forward, forward_relu, forward_bias, forward_bias_relu, data, weights };

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
  void run(DensePass pass, const DenseShape& shape, const void* a, const void* b, const void* bias, void* out,
           void* workspace) const;
  std::string name(DensePass pass, const DenseShape& shape) const;
  std::size_t workspace_bytes() const;
  static std::string version();

 private:
  struct State;
  class Candidates;
  std::unique_ptr<State> state_;
};

/// "forward_bias 32x3x224x224 64x7x7 stride 2x2 pad 3x3 groups 1": for names and messages.
std::string describe(ConvPass pass, const ConvShape& shape);
std::string describe(DensePass pass, const DenseShape& shape);

/// Bytes of what a pass reads and writes; of the bias 0 where it has none.
struct PassBytes {
  std::size_t a, b, bias, out;
  friend bool operator==(const PassBytes&, const PassBytes&) = default;
};
PassBytes bytes_of(ConvPass pass, const ConvShape& shape, Precision precision);
PassBytes bytes_of(DensePass pass, const DenseShape& shape, Precision precision);

}  // namespace lockstep::cuda
