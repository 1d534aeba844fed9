// Sums that cuDNN makes of a convolution's result while it writes it, in float16, over so many elements that
// sums made in float16 would be seen. Until this has passed on a device, CudaOptions::half_sums stays off.

#include <cmath>
#include <random>

#include "core/numerics/precision.h"
#include "model/cuda/kernels/numbers.h"
#include "model/cuda/library/library_plans.h"

#include "gpu/gpu_support.h"

namespace lockstep::cuda {
namespace {

TEST(GpuGenStats, SumsOfFloat16AreThoseOfFloat32) {
  LOCKSTEP_NEED_GPU();
  const Stream stream = Stream::create();
  CudaOptions options;
  options.precision = Precision::fp16;
  options.half_sums = true;
  ConvLibrary library(options, stream);
  ConvShape shape{};
  shape.rows = 64;
  shape.in_channels = shape.out_channels = 64;
  shape.in_h = shape.in_w = shape.out_h = shape.out_w = 56;
  shape.kernel_h = shape.kernel_w = shape.stride_h = shape.stride_w = 1;
  shape.groups = 1;
  if (!library.prepare(ConvPass::forward_sums, shape, "")) GTEST_SKIP() << "cuDNN has no such plan here";

  constexpr std::size_t channels = 64, pixels = std::size_t{64} * 56 * 56;
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<std::uint16_t> x(pixels * channels), w(channels * channels);
  // Means from about -1.5 to 1.5: sums in float16 would stop growing at 2048.
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = float_to_fp16(0.5f * normal(random) + static_cast<float>(i % channels) / 64 - 0.5f);
  for (std::uint16_t& v : w) v = float_to_fp16(0.25f * normal(random));
  DeviceBuffer in(x.size() * 2), weights(w.size() * 2), out(x.size() * 2);
  DeviceBuffer sums(ChannelRows::bytes(channels, 2)), workspace(library.workspace_bytes());
  LOCKSTEP_CUDA_CALL(cudaMemcpy(in.data(), x.data(), in.size(), cudaMemcpyHostToDevice));
  LOCKSTEP_CUDA_CALL(cudaMemcpy(weights.data(), w.data(), weights.size(), cudaMemcpyHostToDevice));
  LOCKSTEP_CUDA_CALL(cudaStreamSynchronize(nullptr));
  const auto stride = static_cast<std::size_t>(ChannelRows::stride(channels));
  float* sum = sums.as<float>().data();
  library.run(ConvPass::forward_sums, shape,
              {.a = in.data(), .b = weights.data(), .out = out.data(), .sum = sum, .squares = sum + stride},
              workspace.data());
  stream.synchronize();
  std::vector<std::uint16_t> y(x.size());
  std::vector<float> got(2 * stride);
  LOCKSTEP_CUDA_CALL(cudaMemcpy(y.data(), out.data(), out.size(), cudaMemcpyDeviceToHost));
  LOCKSTEP_CUDA_CALL(
      cudaMemcpy(got.data(), sum, (stride + channels) * sizeof(float), cudaMemcpyDeviceToHost));
  for (std::size_t c = 0; c < channels; ++c) {
    // What the separate kernels would read: the result as it was written.
    double total = 0, squares = 0;
    for (std::size_t p = 0; p < pixels; ++p) {
      const double v = fp16_to_float(y[p * channels + c]);
      total += v;
      squares += v * v;
    }
    const double mean = total / pixels, square = squares / pixels;
    EXPECT_NEAR(got[c] / pixels, mean, 1e-4 * std::max(1.0, std::abs(mean))) << "channel " << c;
    EXPECT_NEAR(got[stride + c] / pixels, square, 1e-3 * square) << "channel " << c;
  }
}

}  // namespace
}  // namespace lockstep::cuda
