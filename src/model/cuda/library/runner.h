#pragma once

#include <cstddef>
#include <cstdint>

#include "model/cuda/kernels/work_loss.h"
#include "model/cuda/kernels/work_norm.h"
#include "model/cuda/kernels/work_residual.h"
#include "model/cuda/library/own_runner.h"
#include "model/cuda/plan/plan.h"

// Carries out the commands of a plan on a Machine, which is a GPU or, in tests, the host. A Machine has
//   void each(std::int64_t n, const Work& work);             run work(i) for i in [0, n), maybe in packs
//   void each_own(std::int64_t n, const OwnWork&, const void* work);   the same for work of an own op
//   void convolve_forward(const ConvForward&, const T* x, const T* weights, const float* bias, const T*
//                         bias_narrow, T* y, bool& fused);
//   bool gives_sums(const ConvForward&) const;               whether there is a plan that sums, too
//   void convolve_forward_sums(const ConvForward&, const T* x, const T* weights, T* y, float* sum,
//                              float* squares);              sums were zeroed
//   bool takes_norm(const ConvNormForward&) const;           whether there is a plan for the whole
//   void convolve_norm(const ConvNormForward&, const T* x, const T* weights, const float* scale,
//                      const float* shift, const T* residual, T* y);
//   bool sums_for_norm(const ConvBackwardData&) const;       whether there is a plan that masks and sums
//   void convolve_backward_data_norm(const ConvBackwardData&, const T* dy, const T* weights, T* dx,
//                                    const NormAddresses<T>&);
//   void convolve_backward_data(const ConvBackwardData&, const T* dy, const T* weights, T* dx);
//   void convolve_backward_weights(const ConvBackwardWeights&, const T* x, const T* dy, float* dw, T* work);
//   and the same three for dense layers (without work).
//   bool gives_gelu(const DenseForward&) const;              whether there is a plan with GELU
//   void dense_forward_gelu(const DenseForward&, const T* x, const T* weights, const float* bias,
//                           const T* bias_narrow, T* y, T* gelu);   y is not written where gelu is y
//   bool gives_bias(const DenseBackwardWeights&) const;      whether there is a plan with the bias's gradient
//   void dense_backward_weights_bias(const DenseBackwardWeights&, const T* x, const T* dy, float* dw,
//                                    float* dbias);
//   bool gives_slope(const DenseBackwardData&) const;        whether there is a plan with GELU's slope
//   void dense_backward_data_gelu(const DenseBackwardData&, const T* dy, const T* weights, const T* gelu,
//                                 T* dx);
// `fused` says whether bias and ReLU are in the result; if not, the runner adds them.

namespace lockstep::cuda {

/// What NormInFront stands for.
template <class T>
struct NormAddresses {
  const T* x;
  const float* mean;
  const float* inverse;
  const float* gamma;
  const float* beta;
  float* sums;  ///< NormInFront::results rows, zeroed
};

/// T: the format of activations.
template <class T, class Machine>
class Runner {
 public:
  Runner(const Plan& plan, Machine& machine, const SliceMemory& memory)
      : plan_(plan), m_(machine), at_(memory) {}

  void forward() {
    take_input();
    for (const Command& command : plan_.forward) std::visit(*this, command);
    give_output();
  }
  /// The parts of forward(): input, commands [first, last), output.
  void take_input() {
    for (const PlannedInput& in : plan_.inputs) take(in, at_.fields[in.field]);
  }
  void forward(int first, int last) {
    for (int i = first; i < last; ++i) std::visit(*this, plan_.forward[static_cast<std::size_t>(i)]);
  }
  void give_output() {
    const LossPlan& l = plan_.loss;
    m_.each(l.rows * l.width, ToPlain<T, float>{value(l.output), floats(l.plain), l.channels, l.pixels});
  }

  /// The loss, and in training its gradient. `answers`: whether the slice has labels or targets.
  void loss(bool answers) {
    const LossPlan& l = plan_.loss;
    auto* rows = reinterpret_cast<LossSums*>(at_.arena + l.row_sums);
    if (answers) {
      MachineLauncher launcher(m_);
      run_own_loss(plan_, at_, launcher);
    }
    if (answers) m_.each(1, SumOfRows{rows, at_.result, l.rows});
    if (plan_.training)
      m_.each(l.rows * l.width,
              ToChannelsLast<float, T>{floats(l.diff_plain), value(l.diff_output), l.channels, l.pixels});
  }

  /// Commands [first, last) of the backward pass.
  void backward(int first, int last) {
    for (int i = first; i < last; ++i) std::visit(*this, plan_.backward[static_cast<std::size_t>(i)]);
  }

  // ---- one command each ----

  void operator()(const ConvForward& c) {
    if (c.sums != nowhere && m_.gives_sums(c)) {
      // cuDNN does not say whether it adds to what is there.
      m_.each(static_cast<std::int64_t>(ChannelRows::bytes(c.shape.out_channels, 2) / sizeof(float)),
              Zero{floats(c.sums)});
      const auto [sum, squares] = rows(c.sums, c.shape.out_channels);
      m_.convolve_forward_sums(c, value(c.x), weights(c.weight), value(c.y), sum, squares);
      return;
    }
    linear(c, c.shape.rows * c.shape.out_h * c.shape.out_w, c.shape.out_channels);
  }
  void operator()(const DenseForward& c) {
    if (c.gelu == nowhere || !m_.gives_gelu(c)) {
      linear(c, c.shape.rows, c.shape.out);
      return;
    }
    const float* bias = c.bias == no_parameter ? nullptr : at_.parameters + c.bias;
    const T* bias_narrow = c.bias == no_parameter ? nullptr : weights(c.bias);
    m_.dense_forward_gelu(c, value(c.x), weights(c.weight), bias, bias_narrow, value(c.y), value(c.gelu));
  }
  void operator()(const ConvBackwardData& c) {
    if (c.norm.sums != nowhere && m_.sums_for_norm(c)) {
      const std::int64_t channels = c.shape.in_channels;
      m_.each(NormInFront::results * ChannelRows::stride(channels), Zero{floats(c.norm.sums)});
      const auto [mean, inverse] = rows(c.norm.saved, channels);
      const NormAddresses<T> norm{
          value(c.norm.x),    mean, inverse, at_.parameters + c.norm.gamma, at_.parameters + c.norm.beta,
          floats(c.norm.sums)};
      m_.convolve_backward_data_norm(c, value(c.dy), weights(c.weight), value(c.dx), norm);
      return;
    }
    m_.convolve_backward_data(c, value(c.dy), weights(c.weight), value(c.dx));
  }
  void operator()(const ConvBackwardWeights& c) {
    m_.convolve_backward_weights(c, value(c.x), value(c.dy), at_.gradients + c.weight, value(c.work));
  }
  void operator()(const DenseBackwardData& c) {
    if (c.gelu != nowhere && m_.gives_slope(c)) {
      m_.dense_backward_data_gelu(c, value(c.dy), weights(c.weight), value(c.gelu), value(c.dx));
      return;
    }
    m_.dense_backward_data(c, value(c.dy), weights(c.weight), value(c.dx));
  }
  void operator()(const DenseBackwardWeights& c) {
    if (c.bias != no_parameter && m_.gives_bias(c)) {
      m_.dense_backward_weights_bias(c, value(c.x), value(c.dy), at_.gradients + c.weight,
                                     at_.gradients + c.bias);
      return;
    }
    m_.dense_backward_weights(c, value(c.x), value(c.dy), at_.gradients + c.weight);
  }
  void operator()(const BiasGradient& c) {
    if (c.given_by >= 0 && m_.gives_bias(backward_command<DenseBackwardWeights>(c.given_by))) return;
    const ChunkPlan plan = chunk_plan(c.rows * c.pixels);
    const Reduction r = reduction(c.work, plan, c.channels);
    m_.each(plan.chunks * c.channels, GradientChunk<T>{nullptr,
                                                       value(c.dy),
                                                       {},
                                                       nullptr,
                                                       nullptr,
                                                       r.chunk_a,
                                                       nullptr,
                                                       at_.header,
                                                       c.channels,
                                                       c.pixels,
                                                       plan});
    m_.each(plan.groups * c.channels, SumGroup{{r.chunk_a, nullptr}, {r.group_a, nullptr}, c.channels, plan});
    m_.each(c.channels, SumFinish{{r.group_a, nullptr}, {at_.gradients + c.bias, nullptr}, c.channels, plan});
  }
  void operator()(const NormForward& c) {
    const auto [mean, inverse] = rows(c.saved, c.channels);
    if (c.training) {
      const ChunkPlan plan = chunk_plan(c.rows * c.pixels);
      const Reduction r = reduction(c.work, plan, c.channels);
      const GivenSums given = given_sums(c);
      m_.each(plan.chunks * c.channels,
              NormChunk<T>{value(c.x), r.chunk_a, r.chunk_b, at_.header, c.channels, c.pixels, plan, given});
      m_.each(plan.groups * c.channels, NormGroup{r.chunk_a, r.chunk_b, r.group_a, r.group_b, at_.header,
                                                  c.channels, c.pixels, plan, given});
      m_.each(c.channels, NormFinish{r.group_a, r.group_b, mean, inverse, at_.gradients + c.mean,
                                     at_.gradients + c.variance, at_.header, c.channels, c.pixels, c.epsilon,
                                     plan, given});
    } else {
      m_.each(c.channels,
              NormRunning{at_.parameters + c.mean, at_.parameters + c.variance, mean, inverse, c.epsilon});
    }
    m_.each(c.rows * c.pixels * c.channels,
            NormApply<T>{value(c.x), value(c.residual), value(c.y), mean, inverse, at_.parameters + c.gamma,
                         at_.parameters + c.beta, at_.header, c.channels, c.pixels, c.relu});
  }
  void operator()(const ConvNormForward& c) {
    const std::int64_t channels = c.shape.out_channels, pixels = c.shape.out_h * c.shape.out_w;
    const auto [first, second] = rows(c.factors, channels);
    const float* gamma = at_.parameters + c.gamma;
    const float* beta = at_.parameters + c.beta;
    const float* mean = at_.parameters + c.mean;
    const float* variance = at_.parameters + c.variance;
    if (m_.takes_norm(c)) {
      const float* bias = c.bias == no_parameter ? nullptr : at_.parameters + c.bias;
      m_.each(channels, NormFactors{mean, variance, gamma, beta, bias, first, second, c.epsilon});
      m_.convolve_norm(c, value(c.x), weights(c.weight), first, second, value(c.residual), value(c.y));
      return;
    }
    (*this)(product_of(c));
    m_.each(channels, NormRunning{mean, variance, first, second, c.epsilon});
    m_.each(c.shape.rows * pixels * channels,
            NormApply<T>{value(c.y), value(c.residual), value(c.y), first, second, gamma, beta, at_.header,
                         channels, pixels, c.relu});
  }
  void operator()(const NormBackwardCommand& c) {
    const auto [mean, inverse] = rows(c.saved, c.channels);
    float* dgamma = at_.gradients + c.gamma;
    float* dbeta = at_.gradients + c.beta;
    const ChunkPlan plan = chunk_plan(c.rows * c.pixels);
    const Reduction r = reduction(c.work, plan, c.channels);
    const GivenGradientSums given = given_sums(c);
    const float* gamma = at_.parameters + c.gamma;
    // What was summed for the norm was masked, too.
    ReluSign<T> sign;
    if (c.relu && given.dgamma == nullptr) sign = {gamma, at_.parameters + c.beta};
    if (c.y != nowhere)
      m_.each(plan.chunks * c.channels,
              ResidualChunk<T>{value(c.x), value(c.y), value(c.more), value(c.dy), mean, inverse, r.chunk_a,
                               r.chunk_b, at_.header, c.channels, c.pixels, c.rows * c.pixels, plan});
    else
      m_.each(plan.chunks * c.channels,
              GradientChunk<T>{value(c.x), value(c.dy), sign, mean, inverse, r.chunk_a, r.chunk_b, at_.header,
                               c.channels, c.pixels, plan, given});
    m_.each(2 * plan.groups * c.channels,
            SumGroup{{r.chunk_a, r.chunk_b}, {r.group_a, r.group_b}, c.channels, plan, given});
    m_.each(2 * c.channels, SumFinish{{r.group_a, r.group_b}, {dbeta, dgamma}, c.channels, plan, given});
    m_.each(c.rows * c.pixels * c.channels,
            NormBackward<T>{value(c.x), value(c.dy), sign, value(c.dx), value(c.dresidual), mean, inverse,
                            gamma, dgamma, dbeta, at_.header, c.channels, c.pixels});
  }
  void operator()(const PoolForward& c) {
    const std::int64_t n = c.rows * c.shape.out_h * c.shape.out_w * c.shape.channels;
    if (c.maximum && c.shape.byte_places())
      m_.each(n, MaxPool<T, std::uint8_t>{value(c.x), value(c.y), places<std::uint8_t>(c.taken), c.shape});
    else if (c.maximum)
      m_.each(n, MaxPool<T, std::int32_t>{value(c.x), value(c.y), places<std::int32_t>(c.taken), c.shape});
    else
      m_.each(n, AvgPool<T>{value(c.x), value(c.y), c.shape});
  }
  void operator()(const PoolBackward& c) {
    const std::int64_t n = c.rows * c.shape.in_h * c.shape.in_w * c.shape.channels;
    if (c.maximum && c.shape.byte_places())
      m_.each(n, MaxPoolBackward<T, std::uint8_t>{value(c.dy), places<std::uint8_t>(c.taken), value(c.dx),
                                                  c.shape});
    else if (c.maximum)
      m_.each(n, MaxPoolBackward<T, std::int32_t>{value(c.dy), places<std::int32_t>(c.taken), value(c.dx),
                                                  c.shape});
    else
      m_.each(n, AvgPoolBackward<T>{value(c.dy), value(c.dx), c.shape});
  }
  void operator()(const ReluForward& c) { m_.each(c.elements, Relu<T>{value(c.x), value(c.y)}); }
  void operator()(const ReluMask& c) {
    m_.each(c.elements, ReluBackward<T>{value(c.y), value(c.dy), value(c.dx)});
  }
  void operator()(const GeluForward& c) {
    if (c.given_by >= 0 && m_.gives_gelu(forward_command<DenseForward>(c.given_by))) return;
    m_.each(c.elements, Gelu<T>{value(c.x), value(c.y)});
  }
  void operator()(const GeluBackward& c) {
    if (c.given_by >= 0 && m_.gives_slope(backward_command<DenseBackwardData>(c.given_by))) return;
    m_.each(c.elements, GeluSlope<T>{value(c.x), value(c.dy), value(c.dx)});
  }
  void operator()(const AddForward& c) { m_.each(c.elements, Add<T>{value(c.a), value(c.b), value(c.y)}); }
  void operator()(const CopyValue& c) { m_.each(c.elements, Copy<T>{value(c.from), value(c.to)}); }
  void operator()(const Accumulate& c) {
    m_.each(c.elements, Add<T>{value(c.into), value(c.from), value(c.into)});
  }
  void operator()(const DropoutCommand& c) {
    m_.each(c.rows * c.pixels * c.channels, Dropout<T>{value(c.x), value(c.y), at_.samples, at_.header,
                                                       c.node, c.threshold, c.scale, c.channels, c.pixels});
  }
  void operator()(const FlattenForward& c) {
    m_.each(c.rows * c.channels * c.pixels, ToPlain<T, T>{value(c.x), value(c.y), c.channels, c.pixels});
  }
  void operator()(const FlattenBackward& c) {
    m_.each(c.rows * c.channels * c.pixels,
            ToChannelsLast<T, T>{value(c.dy), value(c.dx), c.channels, c.pixels});
  }
  void operator()(const SoftmaxForward& c) {
    m_.each(c.vectors, Softmax<T>{value(c.x), value(c.y), c.shape});
  }
  void operator()(const SoftmaxBackwardCommand& c) {
    m_.each(c.vectors, SoftmaxBackward<T>{value(c.y), value(c.dy), value(c.dx), c.shape});
  }
  void operator()(const ZeroGradient& c) { m_.each(c.flat.size(), Zero{at_.gradients + c.flat.begin}); }
  void operator()(const UnscaleGradient& c) {
    m_.each(c.flat.size(), Unscale{at_.gradients + c.flat.begin, at_.loss_scale});
  }
  void operator()(const ClearPaddingCommand& c) {
    m_.each(c.rows * c.extent * c.features,
            ClearPadding<T>{value(c.value), at_.lengths + c.lengths * c.rows, c.extent, c.features});
  }
  void operator()(const OwnForward& c) {
    MachineLauncher launcher(m_);
    run_own(plan_, at_, launcher, c);
  }
  void operator()(const OwnBackward& c) {
    MachineLauncher launcher(m_);
    run_own(plan_, at_, launcher, c);
  }

 private:
  void take(const PlannedInput& in, const FieldMemory& from) {
    const std::int64_t n = plan_.rows * in.channels * in.pixels;
    if (in.type == DType::i32) {
      m_.each(n, CopyWholeNumbers{reinterpret_cast<const std::int32_t*>(from.data),
                                  reinterpret_cast<std::int32_t*>(at_.arena + in.place)});
      return;
    }
    const auto* floats = reinterpret_cast<const float*>(from.data);
    if (from.moves == nullptr && from.table == nullptr) {
      m_.each(n, ToChannelsLast<float, T>{floats, value(in.place), in.channels, in.pixels});
      return;
    }
    const auto width = static_cast<std::int32_t>(in.width);
    const auto height = static_cast<std::int32_t>(in.pixels / in.width);
    const StoredInput stored{floats, reinterpret_cast<const std::uint8_t*>(from.data), from.table,
                             from.table_step};
    m_.each(n, TakeImages<T>{stored, value(in.place), from.moves, from.padding, in.channels, height, width});
  }
  struct Reduction {
    double* group_a;
    double* group_b;
    float* chunk_a;
    float* chunk_b;
  };
  Reduction reduction(std::size_t place, const ChunkPlan& plan, std::int64_t channels) const {
    auto* a = reinterpret_cast<double*>(at_.arena + place);
    auto* b = a + plan.groups * channels;
    auto* c = reinterpret_cast<float*>(b + plan.groups * channels);
    return {a, b, c, c + plan.chunks * channels};
  }
  /// The first two of ChannelRows.
  std::pair<float*, float*> rows(std::size_t place, std::int64_t channels) const {
    return {floats(place), floats(place) + ChannelRows::stride(channels)};
  }
  GivenGradientSums given_sums(const NormBackwardCommand& c) const {
    if (c.sums_from < 0) return {};
    const auto& from = backward_command<ConvBackwardData>(c.sums_from);
    if (!m_.sums_for_norm(from)) return {};
    const auto [dgamma, dbeta] = rows(from.norm.sums, c.channels);
    const auto [mean, inverse] = rows(c.saved, c.channels);
    return {dgamma, dbeta, mean, inverse};
  }
  GivenSums given_sums(const NormForward& c) const {
    if (c.sums_from < 0) return {};
    const auto& from = forward_command<ConvForward>(c.sums_from);
    if (!m_.gives_sums(from)) return {};
    const auto [sum, squares] = rows(c.sums, c.channels);
    return {sum, squares};
  }
  template <class C>
  const C& forward_command(int i) const {
    return std::get<C>(plan_.forward[static_cast<std::size_t>(i)]);
  }
  template <class C>
  const C& backward_command(int i) const {
    return std::get<C>(plan_.backward[static_cast<std::size_t>(i)]);
  }
  T* value(std::size_t place) const {
    return place == nowhere ? nullptr : reinterpret_cast<T*>(at_.arena + place);
  }
  float* floats(std::size_t place) const { return reinterpret_cast<float*>(at_.arena + place); }
  template <class Place>
  Place* places(std::size_t place) const {
    return place == nowhere ? nullptr : reinterpret_cast<Place*>(at_.arena + place);
  }
  const T* weights(std::int64_t element) const { return static_cast<const T*>(at_.narrow) + element; }

  template <class Forward>
  void linear(const Forward& c, std::int64_t rows, std::int64_t channels) {
    const float* bias = c.bias == no_parameter ? nullptr : at_.parameters + c.bias;
    const T* bias_narrow = c.bias == no_parameter ? nullptr : weights(c.bias);
    bool fused = false;
    if constexpr (std::is_same_v<Forward, ConvForward>)
      m_.convolve_forward(c, value(c.x), weights(c.weight), bias, bias_narrow, value(c.y), fused);
    else
      m_.dense_forward(c, value(c.x), weights(c.weight), bias, bias_narrow, value(c.y), fused);
    if (!fused && (bias != nullptr || c.relu))
      m_.each(rows * channels, BiasRelu<T>{value(c.y), bias, channels, c.relu});
  }

  const Plan& plan_;
  Machine& m_;
  SliceMemory at_;
};

}  // namespace lockstep::cuda
