// Our own kernels on a GPU against the same functions on the host, bit for bit: conversions, which are
// instructions there, and packs.

#include <cstring>
#include <random>

#include "model/cuda/kernels/launch.h"
#include "model/cuda/kernels/work_elementwise.h"

#include "gpu/gpu_support.h"

namespace lockstep::cuda {
namespace {

int multiprocessors() {
  int device = 0, count = 0;
  LOCKSTEP_CUDA_CALL(cudaGetDevice(&device));
  LOCKSTEP_CUDA_CALL(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

/// What launch() gives for `n` items that read `from` and write `Out`, `off` elements behind an aligned
/// address: with 0 in packs, else item by item.
template <class Out, class In, class WorkOn>
std::vector<Out> on_device(const std::vector<In>& from, WorkOn work_on, std::size_t off) {
  const Stream stream = Stream::create();
  DeviceBuffer in((from.size() + off) * sizeof(In)), out((from.size() + off) * sizeof(Out));
  PinnedBuffer host(from.size() * std::max(sizeof(In), sizeof(Out)));
  std::memcpy(host.data(), from.data(), from.size() * sizeof(In));
  In* a = reinterpret_cast<In*>(in.data()) + off;
  Out* y = reinterpret_cast<Out*>(out.data()) + off;
  copy_to_device(a, host.data(), from.size() * sizeof(In), stream);
  launch(static_cast<std::int64_t>(from.size()), work_on(a, y), multiprocessors(), stream.handle());
  copy_to_host(host.data(), y, from.size() * sizeof(Out), stream);
  stream.synchronize();
  std::vector<Out> got(from.size());
  std::memcpy(got.data(), host.data(), got.size() * sizeof(Out));
  return got;
}

/// Around every number that either format can hold, and drawn ones.
std::vector<float> numbers() {
  std::vector<float> all;
  const auto add = [&](float x) {
    const auto bits = __builtin_bit_cast(std::uint32_t, x);
    for (const std::uint32_t b : {bits, bits + 1, bits - 1}) all.push_back(__builtin_bit_cast(float, b));
  };
  for (std::uint32_t b = 0; b < 65536; ++b) {
    add(bf16_to_float(static_cast<std::uint16_t>(b)));
    add(fp16_to_float(static_cast<std::uint16_t>(b)));
    const auto half = (b << 16) + 0x8000u;  // between two bfloat16
    add(__builtin_bit_cast(float, half));
    const float low = fp16_to_float(static_cast<std::uint16_t>(b));
    const float high = fp16_to_float(static_cast<std::uint16_t>(b + 1));
    add(low + (high - low) / 2);  // between two float16
  }
  std::mt19937 random(1);
  for (int i = 0; i < 1'000'003; ++i)
    all.push_back(__builtin_bit_cast(float, static_cast<std::uint32_t>(random())));
  return all;
}

template <class T>
void expect_conversions(const char* name) {
  const std::vector<float> from = numbers();
  for (const std::size_t off : {std::size_t{0}, std::size_t{1}}) {
    const auto got = on_device<T>(
        from,
        [](const float* a, T* y) {
          return Convert<T>{a, y};
        },
        off);
    for (std::size_t i = 0; i < from.size(); ++i) {
      T wanted;
      store(wanted, from[i]);
      ASSERT_EQ(got[i].bits, wanted.bits)
          << name << " of " << from[i] << ", bits " << __builtin_bit_cast(std::uint32_t, from[i]);
    }
    std::vector<T> all(65541);
    for (std::size_t i = 0; i < all.size(); ++i) all[i].bits = static_cast<std::uint16_t>(i);
    const auto wide = on_device<float>(
        all,
        [](const T* a, float* y) {
          return Widen<T>{a, y};
        },
        off);
    for (std::size_t i = 0; i < all.size(); ++i) {
      const float wanted = load(all[i]);
      if (wanted != wanted)
        ASSERT_NE(wide[i], wide[i]) << name << " " << i;
      else
        ASSERT_EQ(__builtin_bit_cast(std::uint32_t, wide[i]), __builtin_bit_cast(std::uint32_t, wanted))
            << name << " " << i;
    }
  }
}

TEST(GpuKernels, ConversionsAreThoseOfTheHost) {
  LOCKSTEP_NEED_GPU();
  expect_conversions<Bf16>("bfloat16");
  expect_conversions<Fp16>("float16");
}

}  // namespace
}  // namespace lockstep::cuda
