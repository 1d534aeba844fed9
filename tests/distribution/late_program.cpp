// `lockstep train` on a device, played by the host, that carries out what it was told only when it is waited
// for, and in any order that its streams and events allow, steps captured (on several ranks at once, but the
// host sees results no sooner). Run by late_test.cpp:
//   late_program SEED[:fp16] train --config … [flags]
// The configuration says fp32, since it is checked as the CPU's. Rank 0 says at the end how often the host
// waited for all that it had enqueued.

#include <fmt/format.h>
#include <iostream>
#include <string>

#include "trainer/step/late_device.h"

#include "train_program.h"

namespace lockstep {
namespace {

int train(const std::string& word, const CommandLine& line, Job& job) {
  const int rank = job.comm.rank(), ranks = job.comm.size();
  const auto seed = static_cast<unsigned>(std::stoul(word) + static_cast<unsigned>(rank));
  using Order = test::LateStreams::Order;
  const auto streams =
      std::make_shared<test::LateStreams>(ranks == 1 ? Order::at_random : Order::at_once, seed);
  const bool half = word.ends_with(":fp16");
  const auto precision = half ? cuda::Precision::fp16 : cuda::Precision::fp32;
  job.faults.device = [&](ComputeDevice& device) {
    device = test::late_device(streams, ranks == 1, precision);
  };
  TrainingRun run(share_config(line, job), job);
  const std::int64_t before = streams->finishes;
  const int code = run.run();
  if (rank == 0) std::cout << fmt::format("waits: {}\n", streams->finishes - before) << std::flush;
  return code;
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  return lockstep::test::train_program(argc, argv, "late_program SEED[:fp16]", lockstep::train);
}
