#include <algorithm>
#include <cmath>
#include <cstring>
#include <gmock/gmock.h>

#include "comm/cuda/nccl_sync.h"
#include "comm/cuda/staged_sync.h"
#include "comm/cuda/sync_kernels.h"
#include "comm/threads/thread_communicator.h"
#include "core/numerics/philox.h"

#include "gpu/gpu_support.h"

namespace lockstep::cuda {
namespace {

float value(std::int64_t part, std::int64_t i) {
  const PhiloxBlock b =
      philox4x32({3, 8}, static_cast<std::uint32_t>(part), static_cast<std::uint32_t>(i), 0, 0);
  return (uniform01(b.v[0]) - 0.5f) * static_cast<float>(1 << (b.v[1] % 24));
}

TEST(GpuKernels, CompleteTheTreeWithTheBitsOfTheHost) {
  LOCKSTEP_NEED_GPU();
  const Stream stream = Stream::create();
  constexpr std::int64_t n = 3 * block_elements;
  for (const std::int64_t slices : {1, 2, 3, 8, 13, 40, 600}) {
    std::vector<Node> parts;
    for (std::int64_t i = 0; i < slices; ++i) parts.push_back({i, i + 1});
    const MergeProgram program = merge_program(completion_program(slices, parts));
    PinnedBuffer host(static_cast<std::size_t>(slices * n) * sizeof(float));
    for (std::int64_t p = 0; p < slices; ++p)
      for (std::int64_t i = 0; i < n; ++i)
        host.as<float>()[static_cast<std::size_t>(p * n + i)] = value(p, i);
    DeviceBuffer memory(host.size()), merges(program.merges.size()), marks(3 * sizeof(double));
    copy_to_device(memory.data(), host.data(), host.size(), stream);
    copy_to_device(merges.data(), program.merges.data(), program.merges.size(), stream);
    stream.synchronize();
    // The own part is the first; the others lie behind it.
    const CompletionOperands from{memory.as<float>().data(), n, 0, 1, memory.as<float>().data() + n, n};
    launch_complete(from, merges.as<std::uint8_t>().data(), static_cast<std::int32_t>(slices), program.depth,
                    n, memory.as<float>().data(), stream.handle());
    launch_block_marks(memory.as<float>().data(), n, marks.as<double>().data(), stream.handle());
    PinnedBuffer result(n * sizeof(float)), found(3 * sizeof(double));
    copy_to_host(result.data(), memory.data(), result.size(), stream);
    copy_to_host(found.data(), marks.data(), found.size(), stream);
    stream.synchronize();
    std::vector<float> expected;
    for (std::int64_t i = 0; i < n; ++i) {
      std::vector<float> column;
      for (std::int64_t p = 0; p < slices; ++p) column.push_back(value(p, i));
      expected.push_back(tree_sum(column.data(), slices, [](float a, float b) { return a + b; }));
    }
    EXPECT_EQ(std::memcmp(result.data(), expected.data(), result.size()), 0) << slices << " slices";
    for (std::size_t b = 0; b < 3; ++b) EXPECT_EQ(found.as<double>()[b], 0.0);
  }
}

TEST(GpuKernels, MarkTheBlockThatIsNotFiniteAndNoOther) {
  LOCKSTEP_NEED_GPU();
  const Stream stream = Stream::create();
  constexpr std::int64_t n = 3 * block_elements;
  for (const float bad : {INFINITY, -INFINITY, NAN}) {
    for (const std::int64_t at : {std::int64_t{0}, block_elements - 1, block_elements, n - 1}) {
      PinnedBuffer host(n * sizeof(float)), found(3 * sizeof(double));
      std::fill_n(host.as<float>().data(), n, 1e38f);
      host.as<float>()[static_cast<std::size_t>(at)] = bad;
      DeviceBuffer memory(host.size()), marks(found.size());
      copy_to_device(memory.data(), host.data(), host.size(), stream);
      launch_block_marks(memory.as<float>().data(), n, marks.as<double>().data(), stream.handle());
      copy_to_host(found.data(), marks.data(), found.size(), stream);
      stream.synchronize();
      for (std::int64_t b = 0; b < 3; ++b)
        EXPECT_EQ(std::isnan(found.as<double>()[static_cast<std::size_t>(b)]), b == at / block_elements);
    }
  }
}

TEST(GpuCounters, CountWhatTheDeviceEntersAlsoInAGraph) {
  LOCKSTEP_NEED_GPU();
  const Stream stream = Stream::create();
  ProgressCounters counters;
  EXPECT_EQ(counters.read(), CollectiveProgress{});
  const Graph graph = capture(stream, [&] {
    counters.enter(5, stream);
    counters.leave(stream);
    counters.enter(6, stream);
  });
  for (std::uint64_t round = 1; round <= 3; ++round) {
    graph.launch(stream);
    stream.synchronize();
    EXPECT_EQ(counters.read().entered, 2 * round);
    EXPECT_EQ(counters.read().left, round);
    EXPECT_EQ(counters.read().bucket, 6);
    EXPECT_TRUE(counters.read().inside());
  }
}

// On a host with one GPU this is the only test that calls NCCL.
TEST(GpuNccl, OneRankGoesThroughEveryCall) {
  LOCKSTEP_NEED_GPU();
  for (const bool aborts : {false, true}) {
    run_ranks(1, {}, [&](Communicator& comm) {
      const Device mine(device.info());
      const Stream stream = Stream::create();
      constexpr std::size_t count = 3 * block_elements;
      NcclCommunicator nccl(comm, device.info(), {});
      NcclBuffer from(nccl, count * sizeof(float)), to(nccl, count * sizeof(float));
      std::vector<float> wanted, got(count);
      for (std::size_t i = 0; i < count; ++i) wanted.push_back(value(1, static_cast<std::int64_t>(i)));
      copy_to_device(from.data(), wanted.data(), from.size(), stream);
      stream.synchronize();
      auto* a = static_cast<float*>(from.data());
      auto* b = static_cast<float*>(to.data());
      nccl.group_begin();
      nccl.send(a, count, 0, stream);
      nccl.receive(b, count, 0, stream);
      nccl.group_end();
      nccl.all_gather(b, count, stream);
      nccl.all_gather(static_cast<double*>(to.data()), count / 2, stream);
      nccl.all_reduce_sum(b, count, stream);
      const Event done = Event::create();
      done.record(stream);
      nccl.wait(done, "the test", [] { return ProgressNumber{0}; });
      nccl.poll();
      copy_to_host(got.data(), b, to.size(), stream);
      stream.synchronize();
      EXPECT_EQ(got, wanted);
      if (!aborts) return;
      nccl.group_begin();
      nccl.send(a, count, 0, stream);
      nccl.receive(b, count, 0, stream);
      nccl.abort("the test ends it");
      EXPECT_TRUE(nccl.aborted());
      stream.synchronize();
    });
  }
}

enum class Way { nccl, staged };

// Containers may forbid NCCL to take memory as it does by itself (cuMem); then it can be told to take another
// way.
TEST(GpuNccl, WorksHereOrTheTestSaysWhatHelps) {
  LOCKSTEP_NEED_GPU();
  const auto attempt = [](const std::map<std::string, std::string>& environment) {
    test::ProcessOptions options;
    options.timeout_s = 50;
    options.env = environment;
    return test::run_process({"/proc/self/exe", "--gtest_filter=GpuNccl.OneRankGoesThroughEveryCall"},
                             options);
  };
  const test::ProcessResult plain = attempt({});
  if (plain.exit_code == 0) return;
  const test::ProcessResult without = attempt({{"NCCL_CUMEM_ENABLE", "0"}});
  if (without.exit_code == 0)
    FAIL() << "NCCL works here only with NCCL_CUMEM_ENABLE=0: this machine or container forbids cuMem. Set "
              "it in the "
              "environment of all ranks. Without it: "
           << plain.describe();
  FAIL() << "NCCL works here neither by itself nor with NCCL_CUMEM_ENABLE=0: " << plain.describe()
         << "\nand with it: " << without.describe();
}

/// Steps of a synchroniser on `ranks` ranks that are threads of this process and share one GPU; empty when
/// totals and parameters are the canonical ones on every rank. NCCL is used on one rank only.
void run_sync(const GpuInfo& info, Way way, int ranks, bool sharded) {
  constexpr std::int64_t elements = 50000, slices = 6;
  run_ranks(ranks, {}, [&](Communicator& comm) {
    const Device device(info);
    GradientSyncOptions options;
    options.slices = slices;
    options.bucket_elements = 9000;
    options.sharded = sharded;
    options.finite_marks = true;
    options.block_values = true;
    const Stream compute = Stream::create();
    std::unique_ptr<GradientSync> sync;
    if (way == Way::staged) {
      sync = std::make_unique<StagedSync>(comm, GradientSync::create(comm, elements, options), elements,
                                          options, compute);
    } else {
      sync = std::make_unique<NcclSync>(comm, info, NcclOptions{}, elements, options, compute);
    }
    std::vector<float> expected;
    for (std::int64_t i = 0; i < elements; ++i) {
      std::vector<float> column;
      for (std::int64_t s = 0; s < slices; ++s) column.push_back(value(s, i));
      expected.push_back(tree_sum(column.data(), slices, [](float a, float b) { return a + b; }));
    }
    for (int step = 0; step < 3; ++step) {
      sync->begin_step(step);
      std::int64_t at = 0;
      for (const std::int64_t end : {std::int64_t{100}, std::int64_t{20000}, elements}) {
        for (std::size_t k = 0; k < sync->subtrees().size(); ++k) {
          std::vector<float> sums;
          const Node node = sync->subtrees()[k];
          for (std::int64_t i = at; i < end; ++i) {
            std::vector<float> column;
            for (std::int64_t s = node.begin; s < node.end; ++s) column.push_back(value(s, i));
            sums.push_back(tree_sum(column.data(), node.size(), [](float a, float b) { return a + b; }));
          }
          LOCKSTEP_CUDA_CALL(cudaMemcpyAsync(sync->slot(k).data() + at, sums.data(),
                                             sums.size() * sizeof(float), cudaMemcpyHostToDevice,
                                             compute.handle()));
          compute.synchronize();
        }
        sync->ready({at, end});
        sync->progress();
        at = end;
      }
      sync->finish();
      for (const TotalView& view : sync->totals()) {
        std::vector<float> got(static_cast<std::size_t>(view.range.size()));
        LOCKSTEP_CUDA_CALL(cudaMemcpyAsync(got.data(), view.data, got.size() * sizeof(float),
                                           cudaMemcpyDeviceToHost, compute.handle()));
        // The parameters become the totals.
        copy_on_device(sync->parameters().data() + view.range.begin, view.data, got.size() * sizeof(float),
                       compute);
        compute.synchronize();
        EXPECT_EQ(std::memcmp(got.data(), expected.data() + view.range.begin, got.size() * sizeof(float)), 0);
      }
      // Every rank writes a number for its own blocks, and gets those of the others.
      constexpr std::size_t blocks = (elements + block_elements - 1) / block_elements;
      ASSERT_EQ(sync->block_values().size(), blocks);
      std::vector<double> values(blocks, -1.0), wanted;
      for (std::size_t b = 0; b < blocks; ++b) wanted.push_back(step * 1e3 + static_cast<double>(b));
      for (const Range& range : sync->shard())
        for (std::int64_t e = range.begin; e < range.end; e += block_elements)
          values[static_cast<std::size_t>(e / block_elements)] =
              wanted[static_cast<std::size_t>(e / block_elements)];
      const std::size_t bytes = blocks * sizeof(double);
      LOCKSTEP_CUDA_CALL(cudaMemcpyAsync(sync->block_values().data(), values.data(), bytes,
                                         cudaMemcpyHostToDevice, compute.handle()));
      compute.synchronize();
      sync->gather_block_values();
      LOCKSTEP_CUDA_CALL(cudaMemcpyAsync(values.data(), sync->block_values().data(), bytes,
                                         cudaMemcpyDeviceToHost, compute.handle()));
      compute.synchronize();
      EXPECT_EQ(values, wanted);
      sync->publish_parameters();
      sync->gather_parameters(0, 1);
      std::vector<float> all(elements);
      LOCKSTEP_CUDA_CALL(cudaMemcpyAsync(all.data(), sync->parameters().data(), all.size() * sizeof(float),
                                         cudaMemcpyDeviceToHost, compute.handle()));
      compute.synchronize();
      EXPECT_EQ(all, expected);
    }
  });
}

TEST(GpuSync, OneRankCompletesTheTreeWithoutNccl) {
  LOCKSTEP_NEED_GPU();
  for (const bool sharded : {false, true}) run_sync(device.info(), Way::nccl, 1, sharded);
}

TEST(GpuSync, RanksThatShareAGpuExchangeThroughTheHost) {
  LOCKSTEP_NEED_GPU();
  for (const int ranks : {1, 2, 3})
    for (const bool sharded : {false, true}) run_sync(device.info(), Way::staged, ranks, sharded);
}

}  // namespace
}  // namespace lockstep::cuda
