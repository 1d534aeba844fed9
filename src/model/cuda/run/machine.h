#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "device/cuda/device.h"
#include "model/cuda/library/library_plans.h"
#include "model/cuda/library/runner.h"
#include "model/cuda/plan/options.h"
#include "model/cuda/plan/plan.h"
#include "model/cuda/run/queue.h"
#include "model/cuda/tuning/plan_picker.h"

namespace lockstep::cuda {

/// The GPU under model/cuda/run/engine.h: captured graphs and libraries over a queue. What each function is
/// for stands there and in runner.h. One host thread.
class GpuMachine : public GpuQueue {
 public:
  /// `plan_choice`: as ExecutorOptions has it. `compute` must outlive the machine.
  /// `progress`, which may be empty, is called now and then while plans are measured.
  GpuMachine(const CudaOptions& options, const std::string& plan_choice, const Stream& compute,
             std::function<void()> progress = {});
  ~GpuMachine();

  template <class T>
  void prepare(const Plan& plan) {
    prepare_plans(plan);
  }
  /// The first time a piece is enqueued as it is, since libraries load kernels then, which a capture may not
  /// hold; the second time it is captured; from then on the graph is launched.
  template <class Body>
  void run(std::uint64_t key, Body body) {
    if (!options_.graph) {
      body();
      return;
    }
    Piece& piece = pieces_[key];
    if (!piece.graph && !piece.warm) {
      piece.warm = true;
      body();
      return;
    }
    if (!piece.graph) piece.graph = capture(compute(), body);
    piece.graph.launch(compute());
  }
  void forget() { pieces_.clear(); }

  std::string implementation(const Command& command) const;
  std::string library() const;
  std::string plan_choice() const { return picker_.chosen().text(); }
  std::size_t workspace_bytes() const { return workspace_.size(); }

  template <class T>
  void convolve_forward(const ConvForward& c, const T* x, const T* weights, const float*, const T* bias, T* y,
                        bool& fused) {
    const ConvPass pass = pass_of(c);
    fused = pass != ConvPass::forward || (c.bias == no_parameter && !c.relu);
    convolutions_.run(pass, c.shape, {.a = x, .b = weights, .out = y, .bias = bias}, workspace_.data());
  }
  bool gives_sums(const ConvForward& c) const { return pass_of(c) == ConvPass::forward_sums; }
  template <class T>
  void convolve_forward_sums(const ConvForward& c, const T* x, const T* weights, T* y, float* sum,
                             float* squares) {
    convolutions_.run(ConvPass::forward_sums, c.shape,
                      {.a = x, .b = weights, .out = y, .sum = sum, .squares = squares}, workspace_.data());
  }
  bool takes_norm(const ConvNormForward& c) const { return pass_of(c) == passes_of(c).front(); }
  template <class T>
  void convolve_norm(const ConvNormForward& c, const T* x, const T* weights, const float* scale,
                     const float* shift, const T* residual, T* y) {
    convolutions_.run(pass_of(c), c.shape,
                      {.a = x, .b = weights, .out = y, .scale = scale, .shift = shift, .residual = residual},
                      workspace_.data());
  }
  template <class T>
  void convolve_backward_data(const ConvBackwardData& c, const T* dy, const T* weights, T* dx) {
    convolutions_.run(ConvPass::data, c.shape, {.a = dy, .b = weights, .out = dx}, workspace_.data());
  }
  bool sums_for_norm(const ConvBackwardData& c) const { return pass_of(c) == ConvPass::data_norm; }
  template <class T>
  void convolve_backward_data_norm(const ConvBackwardData& c, const T* dy, const T* weights, T* dx,
                                   const NormAddresses<T>& n) {
    ConvTensors tensors{.a = dy, .b = weights, .out = dx};
    tensors.norm = {n.x, n.mean, n.inverse, n.gamma, n.beta, n.sums};
    convolutions_.run(ConvPass::data_norm, c.shape, tensors, workspace_.data());
  }
  template <class T>
  void convolve_backward_weights(const ConvBackwardWeights& c, const T* x, const T* dy, float* dw, T* work) {
    if (!narrow_weights(c.shape)) {
      convolutions_.run(ConvPass::weights, c.shape, {.a = x, .b = dy, .out = dw}, workspace_.data());
      return;
    }
    convolutions_.run(ConvPass::weights_16_bits, c.shape, {.a = x, .b = dy, .out = work}, workspace_.data());
    if constexpr (sizeof(T) == 2) each(c.shape.weights(), Widen<T>{work, dw});
  }
  template <class T>
  void dense_forward(const DenseForward& c, const T* x, const T* weights, const float*, const T* bias, T* y,
                     bool& fused) {
    const DensePass pass = pass_of(c);
    fused = pass != DensePass::forward || (c.bias == no_parameter && !c.relu);
    dense_.run(pass, c.shape, {x, weights, const_cast<T*>(bias), y, workspace_.data()});
  }
  bool gives_gelu(const DenseForward& c) const { return has_gelu(pass_of(c)); }
  template <class T>
  void dense_forward_gelu(const DenseForward& c, const T* x, const T* weights, const float*, const T* bias,
                          T* y, T* gelu) {
    PassTensors tensors{x, weights, const_cast<T*>(bias), gelu, workspace_.data()};
    tensors.aux = y;
    dense_.run(pass_of(c), c.shape, tensors);
  }
  template <class T>
  void dense_backward_data(const DenseBackwardData& c, const T* dy, const T* weights, T* dx) {
    dense_.run(DensePass::data, c.shape, {dy, weights, nullptr, dx, workspace_.data()});
  }
  bool gives_slope(const DenseBackwardData& c) const { return pass_of(c) == DensePass::data_gelu; }
  template <class T>
  void dense_backward_data_gelu(const DenseBackwardData& c, const T* dy, const T* weights, T* gelu, T* dx) {
    PassTensors tensors{dy, weights, nullptr, dx, workspace_.data()};
    tensors.aux = gelu;
    dense_.run(DensePass::data_gelu, c.shape, tensors);
  }
  template <class T>
  void dense_backward_weights(const DenseBackwardWeights& c, const T* x, const T* dy, float* dw) {
    dense_.run(DensePass::weights, c.shape, {x, dy, nullptr, dw, workspace_.data()});
  }
  bool gives_bias(const DenseBackwardWeights& c) const { return pass_of(c) == DensePass::weights_bias; }
  template <class T>
  void dense_backward_weights_bias(const DenseBackwardWeights& c, const T* x, const T* dy, float* dw,
                                   float* dbias) {
    dense_.run(DensePass::weights_bias, c.shape, {x, dy, dbias, dw, workspace_.data()});
  }

 private:
  struct Piece {
    bool warm = false;
    cuda::Graph graph;
  };

  void prepare_plans(const Plan& plan);
  void prepare_command(const Command& command);
  /// Prepares the first of `passes` for which the library has a plan, or the one that was named.
  template <class Library, class Pass, class Shape>
  void prepare_first(Library& library, const std::vector<Pass>& passes, const Shape& shape);
  ConvPass pass_of(const ConvForward& command) const;
  ConvPass pass_of(const ConvNormForward& command) const;
  ConvPass pass_of(const ConvBackwardData& command) const;
  DensePass pass_of(const DenseForward& command) const;
  DensePass pass_of(const DenseBackwardData& command) const;
  DensePass pass_of(const DenseBackwardWeights& command) const;
  bool narrow_weights(const ConvShape& shape) const;

  CudaOptions options_;
  std::function<void()> progress_;
  ConvLibrary convolutions_;
  DenseLibrary dense_;
  PlanPicker picker_;
  DeviceBuffer workspace_;
  std::unordered_map<std::uint64_t, Piece> pieces_;
};

}  // namespace lockstep::cuda
