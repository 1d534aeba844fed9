// `lockstep train` on a device, played by the host, that carries out what it was told only when it is waited
// for, and in any order that its streams and events allow, steps captured (on several ranks at once, but the
// host sees results no sooner). Run by late_test.cpp:
//   late_program SEED train --config … [flags]
// Rank 0 says at the end how often the host waited for all that it had enqueued.

#include <fmt/format.h>
#include <iostream>
#include <string>

#include "comm/mpi_communicator.h"
#include "core/error.h"
#include "core/log.h"
#include "trainer/late_device.h"
#include "trainer/training_run.h"

namespace lockstep {
namespace {

int program(int argc, char** argv) {
  Log log;
  MpiEnvironment mpi(&argc, &argv);
  try {
    const CommandLine line = parse_command_line(argc - 1, argv + 1);
    const auto comm = make_mpi_communicator(mpi);
    log.set_rank(comm->rank() > 0 ? comm->rank() : -1);
    const auto warn = [&](const std::string& text) { log.warning("{}", text); };
    Job job{*comm, log, [&](std::size_t bytes) { return make_world_communicator(mpi, bytes, warn); }};
    const auto seed = static_cast<unsigned>(std::stoul(argv[1]) + static_cast<unsigned>(comm->rank()));
    using Order = test::LateStreams::Order;
    const auto streams =
        std::make_shared<test::LateStreams>(comm->size() == 1 ? Order::at_random : Order::at_once, seed);
    job.faults.device = [&](ComputeDevice& device) {
      device = test::late_device(streams, comm->size() == 1);
    };
    TrainingRun run(share_config(line, job), job);
    const std::int64_t before = streams->finishes;
    const int code = run.run();
    if (comm->rank() == 0) std::cout << fmt::format("waits: {}\n", streams->finishes - before) << std::flush;
    return code;
  } catch (const SilentError& e) {
    return static_cast<int>(e.code());
  } catch (const Error& e) {
    log.error("{}", e.what());
    if (e.agreed() || mpi.world_size() == 1) return static_cast<int>(e.code());
    MpiEnvironment::abort(static_cast<int>(e.code()));
  } catch (const std::exception& e) {
    log.error("late_program: {}", e.what());
    MpiEnvironment::abort(1);
  }
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: late_program SEED train --config FILE …\n";
    return 2;
  }
  return lockstep::program(argc, argv);
}
