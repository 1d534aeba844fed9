// Trains a small model without end under a watchdog, and breaks in a chosen way on one rank in step 5:
//   hang_program FAULT VICTIM TIMEOUT [REPORT_DIRECTORY]
// Run by hang_test.cpp under mpirun. Every rank first prints "RANK <r> PID <p>". Faults:
//   spin           a lane computes for ever
//   stop           SIGSTOP, in the middle of the backward pass
//   no_barrier     the rank leaves out a barrier and goes on
//   no_gather      the rank leaves out an all-gather and goes on
//   ends           the rank leaves the loop and goes to MPI's end
//   throws         an error of its own, exit code 3
//   device         devices go on for three time-outs; then all but the rank's are in a collective
//   works          in a wait for the others' parameters the rank spins in work of its own
//   slow           a phase of three time-outs that makes progress: no hang
//   saves          three time-outs inside a phase that may last, without progress: no hang
// The last two end after step 8 with exit code 0.

#include <atomic>
#include <chrono>
#include <csignal>
#include <fmt/format.h>
#include <iostream>
#include <memory>
#include <thread>
#include <unistd.h>

#include "comm/join_watchdog.h"
#include "comm/mpi/mpi_communicator.h"
#include "core/error.h"
#include "data/loader.h"
#include "data/normalized_field.h"
#include "data/readers/synthetic.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "trainer/guard/loss_log.h"
#include "trainer/step/model_state.h"
#include "trainer/step/train_step.h"
#include "watch/watchdog.h"

namespace lockstep {
namespace {

constexpr std::int64_t fault_step = 5;

void sleep_s(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

int program(const std::string& fault, int victim, double timeout, const std::string& directory, int argc,
            char** argv) {
  Watchdog watchdog(copied_environment(), timeout);
  if (!directory.empty()) watchdog.set_report_directory(directory);
  MpiEnvironment mpi(&argc, &argv, &watchdog.recorder());
  const auto comm = make_world_communicator(mpi, 4 << 20, [](const std::string&) {});
  join_watchdog(watchdog, *comm);
  std::cout << fmt::format("RANK {} PID {}\n", comm->rank(), getpid()) << std::flush;
  const bool mine = comm->rank() == victim;

  const Shape input{3, 12, 12};
  const Graph graph =
      build_layers("flatten dense:96 relu dense:33 relu dense:5", input, 5, CrossEntropyAttrs{});
  SyntheticOptions made;
  made.samples = 130;
  made.shape = input;
  made.classes = 5;
  const EpochOrder order(made.samples, 48, 12, 1);
  TrainStepOptions options;
  options.slice_rows = 4;
  options.sync.slices = 12;
  options.sync.bucket_elements = 4096;
  std::int64_t at = 0;
  std::atomic<bool> done{false};
  if (mine && (fault == "spin" || fault == "stop"))
    options.before_ready = [&](Range, std::span<const std::span<float>>) {
      if (at != fault_step || done.exchange(true)) return;
      if (fault == "stop") raise(SIGSTOP);
      std::atomic<std::uint64_t> turns{0};
      for (;;) turns.fetch_add(1, std::memory_order_relaxed);
    };
  LanePool lanes(2);
  const std::unique_ptr<TrainStep> made_step = make_train_step(graph, options, *comm, lanes);
  TrainStep& step = *made_step;
  initialise_model(graph, step.executor(), 1, step.writable_parameters());
  comm->barrier();
  LoaderOptions loading;
  loading.data = std::make_shared<MemoryDataset>(make_synthetic(made));
  loading.fields = batch_fields(graph.fields, *loading.data, {}).readers;
  loading.mine = step.slices();
  loading.recorder = comm->recorder();
  Loader loader(order, std::move(loading));
  LossLog losses(*comm, 12, 4);
  std::vector<SliceResult> results(static_cast<std::size_t>(step.slices().size()));
  const bool passes = fault == "slow" || fault == "saves";
  for (; !passes || at < 8; ++at) {
    const bool now = mine && at == fault_step;
    if (now && fault == "ends") break;
    if (now && fault == "throws") throw DivergenceError("the training diverged on purpose");
    if (at == fault_step && fault == "device") {
      const FlightScope scope(comm->recorder(), Activity::compute);
      std::atomic<std::uint64_t> entered{1};
      comm->recorder()->watch_device([&] {
        const std::uint64_t in = entered;
        return CollectiveProgress{in, mine ? in : in - 1, 2};
      });
      for (int i = 0; i < 30; ++i) {
        sleep_s(timeout / 10);
        if (mine) ++entered;
      }
      sleep_s(1e6);
    }
    if (at == fault_step && fault == "works") {
      const FlightScope scope(comm->recorder(), Activity::gather_parameters);
      const OwnWork work(mine ? comm->recorder() : nullptr);
      std::atomic<std::uint64_t> turns{0};
      for (;;) turns.fetch_add(1, std::memory_order_relaxed);
    }
    if (now && fault == "slow") {
      const FlightScope scope(comm->recorder(), Activity::compute);
      for (int i = 0; i < 30; ++i) {
        sleep_s(timeout / 10);
        comm->recorder()->tick();
      }
    }
    if (now && fault == "saves") {
      const FlightScope scope(comm->recorder(), Activity::save);
      sleep_s(3 * timeout);
    }
    const LoadedBatch& batch = loader.next();
    step.run(batch.slices, batch.range.count, at, 1e-3, results);
    losses.record(at, results);
    if (!(now && fault == "no_gather")) losses.flush();
    if (!(now && fault == "no_barrier")) comm->barrier();
  }
  return 0;
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: hang_program FAULT VICTIM TIMEOUT [REPORT_DIRECTORY]\n";
    return 2;
  }
  try {
    return lockstep::program(argv[1], std::stoi(argv[2]), std::stod(argv[3]), argc > 4 ? argv[4] : "", argc,
                             argv);
  } catch (const lockstep::Error& e) {
    std::cerr << "hang_program: " << e.what() << '\n';
    lockstep::MpiEnvironment::abort(static_cast<int>(e.code()));
  }
}
