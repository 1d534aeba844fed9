#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "model/cuda/host_library.h"
#include "model/cuda/library/runner.h"
#include "model/cuda/plan/conv_passes.h"
#include "model/cuda/plan/dense_passes.h"
#include "model/cuda/plan/step_program.h"
#include "model/cuda/tuning/plan_picker.h"

namespace lockstep::test {

/// A GPU played by the host: the same plan, step program, runner, engine and kernels as on a device, item
/// after item; products by plain loops in float64, rounded once. Memory is poisoned with NaN, so that what is
/// read before it was written shows. Streams are carried out at once, and events only checked: waiting for
/// one that was not recorded in this step is an error. Machines that behave otherwise override what is
/// virtual, so that the engine, which takes half a minute to compile, is compiled for this type alone
/// (host_engine.cpp).
class HostMachine {
 public:
  HostMachine() = default;
  virtual ~HostMachine() = default;
  /// `plan_choice`: as ExecutorOptions has it.
  explicit HostMachine(const HostLibrary& library, const std::string& plan_choice = {})
      : library_(library), picker_(plan_choice, nullptr) {}

  template <class T>
  void prepare(const cuda::Plan& plan) {
    choose_plans(plan);
  }
  virtual void choose_plans(const cuda::Plan& plan) {
    const auto choose = [&](const auto& command) {
      const auto unmeasured = [](auto, const cuda::TuningLimits&, double) {
        return cuda::PlanTuner::Measured{};
      };
      if (!picker_.pick(library_, passes_of(command), command.shape, unmeasured)) {
        if (picker_.named()) throw DeviceError("the plans that were chosen elsewhere hold none for a layer");
        throw cuda::NoPlan(describe(passes_of(command).back(), command.shape));
      }
    };
    cuda::prepare_commands(plan, [&](const cuda::Command& command) {
      if (const auto* c = std::get_if<cuda::ConvForward>(&command)) choose(*c);
      if (const auto* c = std::get_if<cuda::ConvNormForward>(&command)) choose(*c);
      if (const auto* c = std::get_if<cuda::DenseForward>(&command)) choose(*c);
      if (const auto* c = std::get_if<cuda::ConvBackwardData>(&command)) choose(*c);
      if (const auto* c = std::get_if<cuda::DenseBackwardData>(&command)) choose(*c);
      if (const auto* c = std::get_if<cuda::DenseBackwardWeights>(&command)) choose(*c);
    });
  }

  std::byte* allocate_arena(std::size_t bytes) { return memory(bytes, 0xff); }
  std::byte* allocate(std::size_t bytes) { return memory(bytes, 0); }
  std::byte* allocate_pinned(std::size_t bytes) { return memory(bytes, 0); }
  virtual void copy_in(void* device, const void* pinned, std::size_t bytes, cuda::Lane) {
    std::memcpy(device, pinned, bytes);
  }
  virtual void copy_out(void* pinned, const void* device, std::size_t bytes, cuda::Lane) {
    std::memcpy(pinned, device, bytes);
  }
  virtual void make_events(int n) { recorded_.assign(static_cast<std::size_t>(n), false); }
  virtual void record(int event, cuda::Lane) { recorded_.at(static_cast<std::size_t>(event)) = true; }
  virtual void wait(int event, cuda::Lane) { known(event); }
  virtual void host_wait(int event) { known(event); }
  virtual bool reached(int event) {
    known(event);
    return true;
  }
  virtual void run(std::uint64_t key, const std::function<void()>& body) {
    keys.insert(key);
    body();
  }
  /// What stands on the compute stream.
  virtual void carry_out(std::function<void()> work) { work(); }
  virtual void forget() { keys.clear(); }
  virtual void finish() {}
  virtual void make_marks(int n) { marks_.resize(static_cast<std::size_t>(n)); }
  virtual void mark(int which) {
    marks_.at(static_cast<std::size_t>(which)) = std::chrono::steady_clock::now();
  }
  virtual double seconds_between(int from, int to) const {
    const auto passed = marks_.at(static_cast<std::size_t>(to)) - marks_.at(static_cast<std::size_t>(from));
    return std::chrono::duration<double>(passed).count();
  }
  std::string implementation(const cuda::Command&) const { return "host"; }
  std::string library() const { return "host"; }
  virtual std::string plan_choice() const { return picker_.chosen().text(); }
  std::size_t workspace_bytes() const { return 0; }

  template <class Work>
  void each(std::int64_t n, const Work& work) {
    carry_out([this, n, work] { launch(n, work); });
  }

  void each_own(std::int64_t n, const cuda::OwnWork& kernel, const void* work) {
    const auto* bytes = static_cast<const std::byte*>(work);
    carry_out([this, n, &kernel, copy = std::vector<std::byte>(bytes, bytes + kernel.bytes)] {
      ++launches;
      kernel.on_host(n, copy.data());
    });
  }

  template <class T>
  void convolve_forward(const cuda::ConvForward& c, const T* x, const T* w, const float*, const T*, T* y,
                        bool& fused) {
    fused = false;
    carry_out([=] { put(convolve(c.shape, x, w), y); });
  }
  bool gives_sums(const cuda::ConvForward& c) const { return chosen(c) == cuda::ConvPass::forward_sums; }
  /// Sums what it has before it rounds it to T, one value after the other in float32: the least accurate that
  /// a library may do.
  template <class T>
  void convolve_forward_sums(const cuda::ConvForward& c, const T* x, const T* w, T* y, float* sum,
                             float* squares) {
    carry_out([=, this] {
      ++summed;
      const std::vector<double> products = convolve(c.shape, x, w);
      for (std::size_t i = 0; i < products.size(); ++i) {
        const auto channel = i % static_cast<std::size_t>(c.shape.out_channels);
        const auto z = static_cast<float>(products[i]);
        sum[channel] += z;
        squares[channel] += z * z;
      }
      put(products, y);
    });
  }
  bool takes_norm(const cuda::ConvNormForward& c) const { return chosen(c) == passes_of(c).front(); }
  template <class T>
  void convolve_norm(const cuda::ConvNormForward& c, const T* x, const T* w, const float* scale,
                     const float* shift, const T* residual, T* y) {
    carry_out([=, this] {
      ++norms;
      const std::vector<double> products = convolve(c.shape, x, w);
      for (std::size_t i = 0; i < products.size(); ++i) {
        const auto channel = i % static_cast<std::size_t>(c.shape.out_channels);
        float z = static_cast<float>(products[i]) * scale[channel] + shift[channel];
        if (residual != nullptr) z += cuda::load(residual[i]);
        cuda::store(y[i], c.relu ? cuda::relu_of(z) : z);
      }
    });
  }
  template <class T>
  void convolve_backward_data(const cuda::ConvBackwardData& c, const T* dy, const T* w, T* dx) {
    carry_out([=] { put(convolve_back(c.shape, dy, w), dx); });
  }
  bool sums_for_norm(const cuda::ConvBackwardData& c) const { return chosen(c) == cuda::ConvPass::data_norm; }
  /// Sums in float32, one after the other, before rounding, and g xhat as a difference: the least accurate
  /// that a library may do.
  template <class T>
  void convolve_backward_data_norm(const cuda::ConvBackwardData& c, const T* dy, const T* w, T* dx,
                                   const cuda::NormAddresses<T>& n) {
    carry_out([=, this] {
      ++masked;
      const auto channels = static_cast<std::size_t>(c.shape.in_channels);
      std::vector<double> g = convolve_back(c.shape, dy, w);
      std::vector<float> products(channels), sums(channels);
      for (std::size_t i = 0; i < g.size(); ++i) {
        const std::size_t k = i % channels;
        const float x = cuda::load(n.x[i]);
        const float y = (x - n.mean[k]) * (n.inverse[k] * n.gamma[k]) + n.beta[k];
        if (!(y > 0.0f)) g[i] = 0;
        sums[k] += static_cast<float>(g[i]);
        products[k] += static_cast<float>(g[i]) * x;
      }
      put(g, dx);
      for (std::size_t k = 0; k < channels; ++k) {
        n.sums[k] += (products[k] - n.mean[k] * sums[k]) * n.inverse[k];
        n.sums[static_cast<std::size_t>(cuda::ChannelRows::stride(c.shape.in_channels)) + k] += sums[k];
      }
    });
  }
  template <class T>
  void convolve_backward_weights(const cuda::ConvBackwardWeights& c, const T* x, const T* dy, float* dw, T*) {
    carry_out([=] {
      std::vector<double> sums(static_cast<std::size_t>(c.shape.weights()));
      taps(c.shape, [&](std::int64_t xi, std::int64_t wi, std::int64_t yi) {
        sums[static_cast<std::size_t>(wi)] += static_cast<double>(cuda::load(dy[yi])) * cuda::load(x[xi]);
      });
      put(sums, dw);
    });
  }
  template <class T>
  void dense_forward(const cuda::DenseForward& c, const T* x, const T* w, const float*, const T*, T* y,
                     bool& fused) {
    fused = false;
    carry_out([=] { put(multiply(c.shape, x, w), y); });
  }
  bool gives_gelu(const cuda::DenseForward& c) const { return cuda::has_gelu(chosen(c)); }
  /// GELU of what was not rounded to T yet.
  template <class T>
  void dense_forward_gelu(const cuda::DenseForward& c, const T* x, const T* w, const float*, const T* bias,
                          T* y, T* gelu) {
    carry_out([=, this] {
      ++gelus;
      const std::vector<double> products = multiply(c.shape, x, w);
      for (std::size_t i = 0; i < products.size(); ++i) {
        auto z = static_cast<float>(products[i]);
        if (bias != nullptr) z += cuda::load(bias[i % static_cast<std::size_t>(c.shape.out)]);
        if (y != gelu) cuda::store(y[i], z);
        cuda::store(gelu[i], gelu_of(z));
      }
    });
  }
  template <class T>
  void dense_backward_data(const cuda::DenseBackwardData& c, const T* dy, const T* w, T* dx) {
    carry_out([=] { put(multiply_back(c.shape, dy, w), dx); });
  }
  bool gives_slope(const cuda::DenseBackwardData& c) const { return chosen(c) == cuda::DensePass::data_gelu; }
  /// Multiplies before it rounds to T.
  template <class T>
  void dense_backward_data_gelu(const cuda::DenseBackwardData& c, const T* dy, const T* w, const T* gelu,
                                T* dx) {
    carry_out([=, this] {
      ++slopes;
      std::vector<double> products = multiply_back(c.shape, dy, w);
      for (std::size_t i = 0; i < products.size(); ++i)
        products[i] *= static_cast<double>(gelu_slope(cuda::load(gelu[i])));
      put(products, dx);
    });
  }
  template <class T>
  void dense_backward_weights(const cuda::DenseBackwardWeights& c, const T* x, const T* dy, float* dw) {
    carry_out([=] { put(multiply_rows(c.shape, x, dy), dw); });
  }

  bool gives_bias(const cuda::DenseBackwardWeights& c) const {
    return chosen(c) == cuda::DensePass::weights_bias;
  }
  /// Sums in float32, one after the other.
  template <class T>
  void dense_backward_weights_bias(const cuda::DenseBackwardWeights& c, const T* x, const T* dy, float* dw,
                                   float* dbias) {
    carry_out([=, this] {
      ++biases;
      put(multiply_rows(c.shape, x, dy), dw);
      std::fill_n(dbias, c.shape.out, 0.0f);
      for (std::int64_t i = 0; i < c.shape.rows * c.shape.out; ++i)
        dbias[i % c.shape.out] += cuda::load(dy[i]);
    });
  }

  std::set<std::uint64_t> keys;  ///< of pieces that a GPU would capture
  std::int64_t launches = 0;
  std::int64_t in_packs = 0;  ///< of them
  int most_pack_blocks = 8;
  std::int64_t norms = 0;   ///< convolutions that took a norm
  std::int64_t summed = 0;  ///< convolutions that summed their result
  std::int64_t masked = 0;  ///< data gradients that were masked and summed for a norm
  std::int64_t biases = 0;  ///< products that gave a bias's gradient
  std::int64_t gelus = 0;   ///< dense layers that gave GELU
  std::int64_t slopes = 0;  ///< data gradients that were multiplied by GELU's slope

 private:
  template <class Work>
  void launch(std::int64_t n, const Work& work) {
    ++launches;
    const cuda::PackGrid grid = cuda::pack_grid(n, work, most_pack_blocks);
    if constexpr (cuda::InPacks<Work>) {
      if (grid.packs > 0) ++in_packs;
      const std::uint32_t threads = grid.blocks * cuda::pack_threads;
      for (std::uint32_t i = 0; i < threads; ++i)
        cuda::run_packs(i, threads, grid.packs, grid.channel_packs, work);
    }
    for (std::int64_t i = std::int64_t{grid.packs} * cuda::pack_elements; i < n; ++i) work(i);
  }
  template <class Command, class Pass = typename decltype(passes_of(std::declval<Command>()))::value_type>
  Pass chosen(const Command& c) const {
    const auto passes = passes_of(c);
    return chosen_pass(std::span(passes), c.shape, picker_.chosen());
  }
  template <class T>
  static std::vector<double> multiply(const cuda::DenseShape& shape, const T* x, const T* w) {
    const auto [rows, in, out] = shape;
    std::vector<double> sums(static_cast<std::size_t>(rows * out));
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t o = 0; o < out; ++o)
        for (std::int64_t k = 0; k < in; ++k)
          sums[static_cast<std::size_t>(r * out + o)] +=
              static_cast<double>(cuda::load(x[r * in + k])) * cuda::load(w[o * in + k]);
    return sums;
  }
  template <class T>
  static std::vector<double> multiply_back(const cuda::DenseShape& shape, const T* dy, const T* w) {
    const auto [rows, in, out] = shape;
    std::vector<double> sums(static_cast<std::size_t>(rows * in));
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t o = 0; o < out; ++o)
        for (std::int64_t k = 0; k < in; ++k)
          sums[static_cast<std::size_t>(r * in + k)] +=
              static_cast<double>(cuda::load(dy[r * out + o])) * cuda::load(w[o * in + k]);
    return sums;
  }
  template <class T>
  static std::vector<double> multiply_rows(const cuda::DenseShape& shape, const T* x, const T* dy) {
    const auto [rows, in, out] = shape;
    std::vector<double> sums(static_cast<std::size_t>(in * out));
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t o = 0; o < out; ++o)
        for (std::int64_t k = 0; k < in; ++k)
          sums[static_cast<std::size_t>(o * in + k)] +=
              static_cast<double>(cuda::load(dy[r * out + o])) * cuda::load(x[r * in + k]);
    return sums;
  }
  template <class T>
  static std::vector<double> convolve(const cuda::ConvShape& s, const T* x, const T* w) {
    std::vector<double> sums(static_cast<std::size_t>(s.rows * s.out_h * s.out_w * s.out_channels));
    taps(s, [&](std::int64_t xi, std::int64_t wi, std::int64_t yi) {
      sums[static_cast<std::size_t>(yi)] += static_cast<double>(cuda::load(x[xi])) * cuda::load(w[wi]);
    });
    return sums;
  }
  template <class T>
  static std::vector<double> convolve_back(const cuda::ConvShape& s, const T* dy, const T* w) {
    std::vector<double> sums(static_cast<std::size_t>(s.rows * s.in_h * s.in_w * s.in_channels));
    taps(s, [&](std::int64_t xi, std::int64_t wi, std::int64_t yi) {
      sums[static_cast<std::size_t>(xi)] += static_cast<double>(cuda::load(dy[yi])) * cuda::load(w[wi]);
    });
    return sums;
  }
  std::byte* memory(std::size_t bytes, int fill) {
    owned_.push_back(std::make_unique<std::byte[]>(bytes + 64));
    std::memset(owned_.back().get(), fill, bytes + 64);
    return owned_.back().get();
  }
  void known(int event) const {
    if (!recorded_.at(static_cast<std::size_t>(event)))
      throw InternalError("an event is waited for, not recorded");
  }
  template <class T>
  static void put(const std::vector<double>& sums, T* to) {
    for (std::size_t i = 0; i < sums.size(); ++i) cuda::store(to[i], static_cast<float>(sums[i]));
  }
  /// Calls fn(x index, w index, y index) for each product of a convolution.
  template <class Fn>
  static void taps(const cuda::ConvShape& s, Fn fn) {
    const std::int64_t in_group = s.in_channels / s.groups, out_group = s.out_channels / s.groups;
    for (std::int64_t n = 0; n < s.rows; ++n)
      for (std::int64_t oy = 0; oy < s.out_h; ++oy)
        for (std::int64_t ox = 0; ox < s.out_w; ++ox)
          for (std::int64_t o = 0; o < s.out_channels; ++o)
            for (std::int64_t ky = 0; ky < s.kernel_h; ++ky)
              for (std::int64_t kx = 0; kx < s.kernel_w; ++kx) {
                const std::int64_t iy = oy * s.stride_h - s.pad_h + ky, ix = ox * s.stride_w - s.pad_w + kx;
                if (iy < 0 || iy >= s.in_h || ix < 0 || ix >= s.in_w) continue;
                for (std::int64_t c = 0; c < in_group; ++c)
                  fn(((n * s.in_h + iy) * s.in_w + ix) * s.in_channels + o / out_group * in_group + c,
                     ((o * s.kernel_h + ky) * s.kernel_w + kx) * in_group + c,
                     ((n * s.out_h + oy) * s.out_w + ox) * s.out_channels + o);
              }
  }

  HostLibrary library_;
  cuda::PlanPicker picker_{"", nullptr};
  std::vector<std::unique_ptr<std::byte[]>> owned_;
  std::vector<bool> recorded_;
  std::vector<std::chrono::steady_clock::time_point> marks_;
};

}  // namespace lockstep::test
