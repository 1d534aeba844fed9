#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/numerics/precision.h"
#include "device/lane_pool.h"
#include "device/memory.h"
#include "model/cpu/kernels/kernel.h"

namespace lockstep::test {

/// oneDNN's general matrix product, on which it falls back (mostly without AVX-512), packs its operands into
/// buffers that it takes from the system in each run; none can be lent to it.
inline bool library_takes_buffers(const std::string& implementation) {
  return implementation.find("gemm:jit") != std::string::npos;
}

/// Numbers in [-1, 1), a function of (seed, index).
inline std::vector<float> random_floats(std::int64_t count, std::uint32_t seed) {
  std::vector<float> out(static_cast<std::size_t>(count));
  std::uint64_t state = 0x9e3779b97f4a7c15ull * (seed + 1);
  for (float& x : out) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    x = static_cast<float>(static_cast<std::int32_t>(state >> 32)) * 0x1p-31f;
  }
  return out;
}

/// Plain (rows, C, H, W) to the layout of the plan, and back.
inline std::vector<float> to_layout(const std::vector<float>& plain, const cpu::ValueLayout& layout,
                                    bool back = false) {
  std::vector<float> out(plain.size());
  const std::int64_t pixels = layout.height * layout.width;
  const auto rows = static_cast<std::int64_t>(plain.size()) / layout.elements();
  std::size_t i = 0;
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < layout.channels; ++c)
      for (std::int64_t p = 0; p < pixels; ++p, ++i) {
        const std::int64_t block = c / layout.block;
        const auto j = static_cast<std::size_t>(r * layout.elements() + (block * pixels + p) * layout.block +
                                                c % layout.block);
        if (back)
          out[i] = plain[j];
        else
          out[j] = plain[i];
      }
  return out;
}

/// Compares with a float64 reference. A sum of K products in float32 with rounding unit u = 2^-24, in any
/// order, is off by at most about K u times the sum of magnitudes (Higham 2002, section 3.1), which each
/// element must keep; roundings are as good as independent, so the root mean square of all errors is about u
/// sqrt(K / 6) of the results', of which four times are allowed. One product left out
/// of each sum of K = 4608 is off by 1/68 of a result, a thousand times the second bound.
inline void expect_close(const std::vector<float>& got, const std::vector<double>& want,
                         const std::vector<double>& magnitude, std::int64_t terms, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  constexpr double unit = 0x1p-24;
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_TRUE(std::isfinite(got[i])) << what << ": element " << i << " is " << got[i];
    const double off = std::abs(static_cast<double>(got[i]) - want[i]);
    ASSERT_LE(off, static_cast<double>(terms + 2) * unit * magnitude[i] + 1e-37)
        << what << ": element " << i << " of " << got.size();
    error += off * off;
    // The size of a sum of terms with random signs, where this one happens to cancel.
    norm += std::max(want[i] * want[i], magnitude[i] * magnitude[i] / static_cast<double>(terms));
  }
  EXPECT_LE(std::sqrt(error), 4 * unit * std::sqrt(static_cast<double>(terms + 2)) * std::sqrt(norm)) << what;
}

/// One kernel with memory of its own around it, poisoned with NaN, and a canary after each buffer.
class KernelRun {
 public:
  static constexpr std::size_t parameter_begin = 16;

  KernelRun(std::unique_ptr<cpu::Kernel> kernel, const cpu::KernelSpec& spec)
      : kernel_(std::move(kernel)), spec_(spec) {
    const auto rows = static_cast<std::size_t>(spec.rows);
    in_bytes_ = rows * spec.inputs[0].bytes();
    out_bytes_ = rows * spec.output.bytes();
    const cpu::Needs& needs = kernel_->needs();
    at_.inputs = {place(in_bytes_)};
    at_.output = place(out_bytes_);
    at_.diff_inputs = {spec.diff_input ? place(in_bytes_) : cpu::none};
    at_.diff_output = place(out_bytes_);
    if (needs.saved > 0) at_.saved = place(needs.saved);
    if (needs.work > 0) at_.work = place(needs.work);
    at_.prepared = 64;
    std::int64_t next = parameter_begin;
    for (const std::int64_t size : needs.parameter_storage) {
      at_.parameters.push_back(next);
      next = (next + size + 15 + 16) / 16 * 16;
    }
    flat_ = next;
    arena_ = HostBuffer(bytes_ + 64);
    parameters_ = HostBuffer(static_cast<std::size_t>(flat_) * sizeof(float));
    gradients_ = HostBuffer(static_cast<std::size_t>(flat_) * sizeof(float));
    prepared_ = HostBuffer(needs.prepared + 128);
    for (int i = 0; i < spec.lanes; ++i) scratch_.emplace_back(needs.scratch + 128);
    poison(arena_);
    poison(prepared_);
    for (HostBuffer& scratch : scratch_) poison(scratch);
    poison(gradients_);
  }

  const cpu::Kernel& kernel() const { return *kernel_; }

  void set_parameter(std::size_t i, const std::vector<float>& plain) {
    kernel_->import_plain(i, plain, stored(parameters_, i));
  }
  std::vector<float> parameter(std::size_t i, std::size_t plain) { return exported(parameters_, i, plain); }
  std::vector<float> gradient(std::size_t i, std::size_t plain) { return exported(gradients_, i, plain); }
  std::span<float> stored_gradient(std::size_t i) { return stored(gradients_, i); }
  // Plain float32, whatever the layout and the format of the value are.
  void set_input(const std::vector<float>& plain) { put(at_.inputs[0], plain, spec_.inputs[0]); }
  void set_diff_output(const std::vector<float>& plain) { put(at_.diff_output, plain, spec_.output); }
  std::vector<float> output() { return get(at_.output, out_bytes_, spec_.output); }
  std::vector<float> diff_input() { return get(at_.diff_inputs[0], in_bytes_, spec_.inputs[0]); }

  /// All phases of a direction on the pool's lanes; `backwards`: each lane takes its tasks in falling order.
  void prepare(LanePool& pool, bool backwards = false) {
    phases(pool, kernel_->prepare_phases(), backwards, [&](int p, int t, const cpu::TaskContext& ctx) {
      kernel_->prepare(p, t, at_, ctx, prepared_.data());
    });
  }
  void forward(LanePool& pool, bool backwards = false) {
    phases(pool, kernel_->forward_phases(), backwards,
           [&](int p, int t, const cpu::TaskContext& ctx) { kernel_->forward(p, t, at_, ctx); });
  }
  void backward(LanePool& pool, bool backwards = false) {
    phases(pool, kernel_->backward_phases(), backwards,
           [&](int p, int t, const cpu::TaskContext& ctx) { kernel_->backward(p, t, at_, ctx); });
  }

  /// Nothing was written outside the buffers: every float between them is still the poison.
  bool canaries_live() const {
    const auto* bytes = reinterpret_cast<const std::uint32_t*>(arena_.data());
    for (const std::size_t canary : canaries_)
      for (std::size_t i = 0; i < 16; ++i)
        if (bytes[canary / 4 + i] != poison_bits) return false;
    const auto* prepared = reinterpret_cast<const std::uint32_t*>(prepared_.data());
    for (std::size_t i = 0; i < 16; ++i)
      if (prepared[i] != poison_bits) return false;
    for (const HostBuffer& scratch : scratch_)
      if (reinterpret_cast<const std::uint32_t*>(scratch.data())[scratch.size() / 4 - 1] != poison_bits)
        return false;
    return true;
  }

 private:
  static constexpr std::uint32_t poison_bits = 0x7fc0dead;  // a quiet NaN

  std::size_t place(std::size_t bytes) {
    const std::size_t begin = bytes_;
    canaries_.push_back(align_up(begin + bytes, 4));
    bytes_ = align_up(begin + bytes + 64, 64);
    return begin;
  }
  static void poison(HostBuffer& buffer) {
    auto* words = reinterpret_cast<std::uint32_t*>(buffer.data());
    std::fill_n(words, buffer.size() / 4, poison_bits);
  }
  std::span<float> stored(HostBuffer& flat, std::size_t i) {
    return flat.as<float>().subspan(static_cast<std::size_t>(at_.parameters[i]),
                                    static_cast<std::size_t>(kernel_->needs().parameter_storage[i]));
  }
  std::vector<float> exported(HostBuffer& flat, std::size_t i, std::size_t plain) {
    std::vector<float> out(plain);
    kernel_->export_plain(i, stored(flat, i), out);
    return out;
  }
  void put(std::size_t offset, const std::vector<float>& plain, const cpu::ValueLayout& layout) {
    const std::vector<float> values = to_layout(plain, layout);
    std::byte* to = arena_.data() + offset;
    if (layout.format == NumberFormat::bf16)
      std::transform(values.begin(), values.end(), reinterpret_cast<std::uint16_t*>(to), float_to_bf16);
    else
      std::copy(values.begin(), values.end(), reinterpret_cast<float*>(to));
  }
  std::vector<float> get(std::size_t offset, std::size_t bytes, const cpu::ValueLayout& layout) const {
    std::vector<float> values(bytes / bytes_of(layout.format));
    const std::byte* from = arena_.data() + offset;
    if (layout.format == NumberFormat::bf16)
      std::transform(reinterpret_cast<const std::uint16_t*>(from),
                     reinterpret_cast<const std::uint16_t*>(from) + values.size(), values.begin(),
                     bf16_to_float);
    else
      std::copy_n(reinterpret_cast<const float*>(from), values.size(), values.begin());
    return to_layout(values, layout, true);
  }
  template <class Run>
  void phases(LanePool& pool, std::span<const cpu::Phase> phases, bool backwards, Run&& run) {
    for (std::size_t p = 0; p < phases.size(); ++p)
      pool.run([&](int lane) {
        cpu::TaskContext ctx;
        ctx.arena = arena_.data();
        ctx.scratch = scratch_[static_cast<std::size_t>(lane)].data();
        ctx.lane = lane;
        ctx.prepared = prepared_.data();
        ctx.parameters = parameters_.as<float>().data();
        ctx.gradients = gradients_.as<float>().data();
        const int tasks = phases[p].tasks;
        for (int t = 0; t < tasks; ++t) {
          const int task = backwards ? tasks - 1 - t : t;
          if (task % pool.size() == lane) run(static_cast<int>(p), task, ctx);
        }
      });
  }

  std::unique_ptr<cpu::Kernel> kernel_;
  cpu::KernelSpec spec_;
  cpu::Binding at_;
  std::size_t bytes_ = 0, in_bytes_ = 0, out_bytes_ = 0;
  std::vector<std::size_t> canaries_;
  std::int64_t flat_ = 0;
  HostBuffer arena_, parameters_, gradients_, prepared_;
  std::vector<HostBuffer> scratch_;
};

/// Same bits, NaN included.
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace lockstep::test
