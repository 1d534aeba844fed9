#include <gmock/gmock.h>
#include <numeric>

#include "core/error.h"

#include "gpu/gpu_support.h"

namespace lockstep::cuda {
namespace {

TEST(GpuMemory, IsZeroedAndCopiesComeBack) {
  LOCKSTEP_NEED_GPU();
  const Stream stream = Stream::create();
  DeviceBuffer memory(4096 * sizeof(int));
  PinnedBuffer host(4096 * sizeof(int));
  std::fill(host.as<int>().begin(), host.as<int>().end(), 7);
  copy_to_host(host.data(), memory.data(), memory.size(), stream);
  stream.synchronize();
  EXPECT_THAT(host.as<int>(), testing::Each(0));
  std::iota(host.as<int>().begin(), host.as<int>().end(), 0);
  copy_to_device(memory.data(), host.data(), memory.size(), stream);
  DeviceBuffer other(memory.size());
  copy_on_device(other.data(), memory.data(), memory.size(), stream);
  PinnedBuffer back(memory.size());
  copy_to_host(back.data(), other.data(), other.size(), stream);
  stream.synchronize();
  EXPECT_TRUE(std::equal(back.as<int>().begin(), back.as<int>().end(), host.as<int>().begin()));
}

TEST(GpuMemory, TooMuchIsAnErrorThatNamesSizeCallHostAndDevice) {
  LOCKSTEP_NEED_GPU();
  try {
    const DeviceBuffer impossible(std::size_t{1} << 50);
    FAIL() << "a petabyte was had";
  } catch (const DeviceError& e) {
    EXPECT_THAT(e.what(), testing::AllOf(testing::HasSubstr("cudaMalloc"), testing::HasSubstr("memory"),
                                         testing::HasSubstr("GPU 0 of "), testing::HasSubstr("pid ")));
  }
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "the next launch would find it";
}

// The check after a kernel launch reads the thread's last error.
TEST(GpuStream, AskingForWhatIsNotReachedLeavesNoErrorBehind) {
  LOCKSTEP_NEED_GPU();
  const Stream stream = Stream::create();
  const Event event = Event::create();
  DeviceBuffer a(std::size_t{256} << 20), b(a.size());
  for (int i = 0; i < 50; ++i) copy_on_device(b.data(), a.data(), a.size(), stream);
  event.record(stream);
  // How often depends on the device, and on a sanitizer that may wait for every copy.
  while (!stream.idle()) {
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
    (void)event.reached();
    ASSERT_EQ(cudaGetLastError(), cudaSuccess);
  }
  EXPECT_TRUE(event.reached());
}

TEST(GpuGraph, RunsWhatWasCapturedEachTimeItIsLaunched) {
  LOCKSTEP_NEED_GPU();
  const Stream stream = Stream::create();
  const Stream side = Stream::create(Stream::Priority::high);
  const Event fork = Event::create(), join = Event::create();
  DeviceBuffer a(64), b(64);
  PinnedBuffer host(64);
  const Graph graph = capture(stream, [&] {
    LOCKSTEP_CUDA_CALL(cudaMemsetAsync(a.data(), 3, 64, stream.handle()));
    fork.record(stream);
    fork.make_wait(side);
    copy_on_device(b.data(), a.data(), 64, side);
    join.record(side);
    join.make_wait(stream);
    copy_to_host(host.data(), b.data(), 64, stream);
  });
  EXPECT_GE(graph.nodes(), 3u);
  for (int i = 0; i < 2; ++i) {
    std::fill(host.as<char>().begin(), host.as<char>().end(), 0);
    graph.launch(stream);
    stream.synchronize();
    EXPECT_THAT(host.as<char>(), testing::Each(3));
  }
}

}  // namespace
}  // namespace lockstep::cuda
