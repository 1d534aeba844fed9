#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/cuda/engine.h"

namespace lockstep::test {

/// A GPU played by the host: the same plan, step program, runner, engine and kernels as on a device, item
/// after item; products by plain loops in float64, rounded once. Memory is poisoned with NaN, so that what is
/// read before it was written shows. Streams are carried out at once, and events only checked: waiting for
/// one that was not recorded in this step is an error.
class HostMachine {
 public:
  template <class T>
  void prepare(const cuda::Plan&) {}

  std::byte* allocate_arena(std::size_t bytes) { return memory(bytes, 0xff); }
  std::byte* allocate(std::size_t bytes) { return memory(bytes, 0); }
  std::byte* allocate_pinned(std::size_t bytes) { return memory(bytes, 0); }
  void copy_in(void* device, const void* pinned, std::size_t bytes, cuda::Lane) {
    std::memcpy(device, pinned, bytes);
  }
  void copy_out(void* pinned, const void* device, std::size_t bytes, cuda::Lane) {
    std::memcpy(pinned, device, bytes);
  }
  void make_events(int n) { recorded_.assign(static_cast<std::size_t>(n), false); }
  void record(int event, cuda::Lane) { recorded_.at(static_cast<std::size_t>(event)) = true; }
  void wait(int event, cuda::Lane) { known(event); }
  void host_wait(int event) { known(event); }
  bool reached(int event) {
    known(event);
    return true;
  }
  template <class Body>
  void run(std::uint64_t key, Body body) {
    keys.insert(key);
    body();
  }
  void forget() { keys.clear(); }
  void finish() {}
  void make_marks(int n) { marks_.resize(static_cast<std::size_t>(n)); }
  void mark(int which) { marks_.at(static_cast<std::size_t>(which)) = std::chrono::steady_clock::now(); }
  double seconds_between(int from, int to) const {
    const auto passed = marks_.at(static_cast<std::size_t>(to)) - marks_.at(static_cast<std::size_t>(from));
    return std::chrono::duration<double>(passed).count();
  }
  std::string implementation(const cuda::Command&) const { return "host"; }
  std::string library() const { return "host"; }
  std::string plan_choice() const { return {}; }
  std::size_t workspace_bytes() const { return 0; }

  template <class Work>
  void each(std::int64_t n, const Work& work) {
    ++launches;
    for (std::int64_t i = 0; i < n; ++i) work(i);
  }

  template <class T>
  void convolve_forward(const cuda::ConvForward& c, const T* x, const T* w, const float*, const T*, T* y,
                        bool& fused) {
    const cuda::ConvShape& s = c.shape;
    std::vector<double> sums(static_cast<std::size_t>(s.rows * s.out_h * s.out_w * s.out_channels));
    taps(s, [&](std::int64_t xi, std::int64_t wi, std::int64_t yi) {
      sums[static_cast<std::size_t>(yi)] += static_cast<double>(cuda::load(x[xi])) * cuda::load(w[wi]);
    });
    put(sums, y);
    fused = false;
  }
  template <class T>
  void convolve_backward_data(const cuda::ConvBackwardData& c, const T* dy, const T* w, T* dx) {
    const cuda::ConvShape& s = c.shape;
    std::vector<double> sums(static_cast<std::size_t>(s.rows * s.in_h * s.in_w * s.in_channels));
    taps(s, [&](std::int64_t xi, std::int64_t wi, std::int64_t yi) {
      sums[static_cast<std::size_t>(xi)] += static_cast<double>(cuda::load(dy[yi])) * cuda::load(w[wi]);
    });
    put(sums, dx);
  }
  template <class T>
  void convolve_backward_weights(const cuda::ConvBackwardWeights& c, const T* x, const T* dy, float* dw, T*) {
    std::vector<double> sums(static_cast<std::size_t>(c.shape.weights()));
    taps(c.shape, [&](std::int64_t xi, std::int64_t wi, std::int64_t yi) {
      sums[static_cast<std::size_t>(wi)] += static_cast<double>(cuda::load(dy[yi])) * cuda::load(x[xi]);
    });
    put(sums, dw);
  }
  template <class T>
  void dense_forward(const cuda::DenseForward& c, const T* x, const T* w, const float*, const T*, T* y,
                     bool& fused) {
    const auto [rows, in, out] = c.shape;
    std::vector<double> sums(static_cast<std::size_t>(rows * out));
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t o = 0; o < out; ++o)
        for (std::int64_t k = 0; k < in; ++k)
          sums[static_cast<std::size_t>(r * out + o)] +=
              static_cast<double>(cuda::load(x[r * in + k])) * cuda::load(w[o * in + k]);
    put(sums, y);
    fused = false;
  }
  template <class T>
  void dense_backward_data(const cuda::DenseBackwardData& c, const T* dy, const T* w, T* dx) {
    const auto [rows, in, out] = c.shape;
    std::vector<double> sums(static_cast<std::size_t>(rows * in));
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t o = 0; o < out; ++o)
        for (std::int64_t k = 0; k < in; ++k)
          sums[static_cast<std::size_t>(r * in + k)] +=
              static_cast<double>(cuda::load(dy[r * out + o])) * cuda::load(w[o * in + k]);
    put(sums, dx);
  }
  template <class T>
  void dense_backward_weights(const cuda::DenseBackwardWeights& c, const T* x, const T* dy, float* dw) {
    const auto [rows, in, out] = c.shape;
    std::vector<double> sums(static_cast<std::size_t>(in * out));
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t o = 0; o < out; ++o)
        for (std::int64_t k = 0; k < in; ++k)
          sums[static_cast<std::size_t>(o * in + k)] +=
              static_cast<double>(cuda::load(dy[r * out + o])) * cuda::load(x[r * in + k]);
    put(sums, dw);
  }

  std::set<std::uint64_t> keys;  ///< of pieces that a GPU would capture
  std::int64_t launches = 0;

 private:
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

  std::vector<std::unique_ptr<std::byte[]>> owned_;
  std::vector<bool> recorded_;
  std::vector<std::chrono::steady_clock::time_point> marks_;
};

}  // namespace lockstep::test
