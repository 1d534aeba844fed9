// What the safeguards cost: the time of a training step with and without the watch for values that are not
// finite, taken in turns in one process so that a noisy machine hits both alike, and the time of one
// comparison of replicas; and what the flight recorder takes.
//   mpirun -n 2 --bind-to none safeguards_bench mlp|resnet18_cifar [rounds]
// Prints one JSON line on rank 0. Medians, of the slowest rank; watched_over_bare_cpu is of processor time on
// rank 0, which means something on one rank only: waiting for others takes it too.

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "comm/join_watchdog.h"
#include "comm/mpi/mpi_communicator.h"
#include "comm/world.h"
#include "core/error.h"
#include "core/flight_recorder.h"
#include "core/numerics/philox.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/zoo.h"
#include "support/make_batch.h"
#include "trainer/guard/replica_check.h"
#include "trainer/step/model_state.h"
#include "trainer/step/train_step.h"
#include "watch/watchdog.h"

namespace lockstep {
namespace {

constexpr std::int64_t slices_per_rank = 1;

double slowest_rank(Communicator& comm, double seconds) {
  std::vector<double> all(static_cast<std::size_t>(comm.size()));
  comm.all_gather(std::as_bytes(std::span(&seconds, 1)), std::as_writable_bytes(std::span(all)));
  return *std::max_element(all.begin(), all.end());
}

template <class Body>
double timed(Communicator& comm, Body&& body) {
  comm.barrier();
  const auto begin = std::chrono::steady_clock::now();
  body();
  return slowest_rank(comm, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
}

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// What the flight recorder takes of a step: the events and signs of progress of a step, each at what it
/// costs when many are made in a row; and for both, how many there are.
struct RecorderCost {
  double events = 0, beats = 0;  // a step
  double event_ns = 0, beat_ns = 0;
  double seconds() const { return (events * event_ns + beats * beat_ns) * 1e-9; }
};

RecorderCost recorder_cost(FlightRecorder& recorder, int steps, std::uint64_t events, std::uint64_t beats) {
  RecorderCost cost;
  cost.events = static_cast<double>(events) / steps;
  cost.beats = static_cast<double>(beats) / steps;
  constexpr int times = 200000;
  const auto nanoseconds = [&](auto&& body) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < times; ++i) body(i);
    return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count() / times;
  };
  cost.event_ns =
      nanoseconds([&](int i) { const FlightScope scope(&recorder, Activity::all_gather, 64, i); });
  cost.beat_ns = nanoseconds([&](int) { recorder.tick(); });
  return cost;
}

int bench(int argc, char** argv) {
  const std::string workload = argc > 1 ? argv[1] : "mlp";
  const int rounds = argc > 2 ? std::stoi(argv[2]) : 30;
  const bool mlp = workload == "mlp";
  if (!mlp && workload != "resnet18_cifar") throw ConfigError("give mlp or resnet18_cifar");
  Watchdog watchdog(copied_environment(), 60);
  MpiEnvironment mpi(&argc, &argv, &watchdog.recorder());
  const auto comm = make_world_communicator(mpi, std::size_t{512} << 20,
                                            [](const std::string& text) { std::cerr << text << '\n'; });
  join_watchdog(watchdog, *comm);
  const Graph graph = mlp ? build_model("mlp", {{"hidden", "2048,2048"}}, {784}, 10, CrossEntropyAttrs{})
                          : build_model("resnet18", {}, {3, 32, 32}, 10, CrossEntropyAttrs{});
  const std::int64_t rows = mlp ? 128 : 32;
  LanePool lanes(1);
  TrainStepOptions options;
  options.slice_rows = rows / slices_per_rank;
  options.optimizer.lr = 1e-4;
  options.optimizer.momentum = 0.9;
  options.sync.slices = slices_per_rank * comm->size();
  options.sync.bucket_elements = 1 << 20;
  options.watch_gradient = false;
  const std::unique_ptr<TrainStep> made_bare = make_train_step(graph, options, *comm, lanes);
  TrainStep& bare = *made_bare;
  options.watch_gradient = true;
  const std::unique_ptr<TrainStep> made_watched = make_train_step(graph, options, *comm, lanes);
  TrainStep& watched = *made_watched;
  for (TrainStep* step : {&bare, &watched})
    initialise_model(graph, step->executor(), 1, step->writable_parameters());

  const auto width = static_cast<std::size_t>(graph.shape_of(graph.inputs[0]).elements());
  const auto n = static_cast<std::size_t>(options.slice_rows);
  std::vector<float> input(n * width);
  const PhiloxKey key = random_key(1, Purpose::synthetic, 0, static_cast<std::uint32_t>(comm->rank()));
  for (std::size_t i = 0; i < input.size(); ++i)
    input[i] = 2 * uniform01(random_block(key, i / 4, 0).v[i % 4]) - 1;
  std::vector<std::int32_t> labels(n);
  std::vector<std::int64_t> samples(n);
  for (std::size_t i = 0; i < n; ++i) {
    labels[i] = static_cast<std::int32_t>(i % 10);
    samples[i] = static_cast<std::int64_t>(i);
  }
  std::vector<Batch> batch;
  for (std::int64_t s = bare.slices().begin; s < bare.slices().end; ++s)
    batch.push_back(test::make_batch(s, options.slice_rows, options.slice_rows, samples, input, labels));
  std::vector<SliceResult> results(batch.size());
  std::int64_t at = 0;
  const auto take = [&](TrainStep& step, int steps) {
    return timed(*comm,
                 [&] {
                   for (int i = 0; i < steps; ++i)
                     step.run(batch, options.slice_rows * options.sync.slices, at, 1e-4, results);
                 }) /
           steps;
  };
  const int steps = mlp ? 5 : 2;
  take(bare, steps);
  take(watched, steps);
  ReplicaCheck check(watched, true, false, std::vector<std::string>(static_cast<std::size_t>(comm->size())),
                     *comm, lanes);
  FlightRecorder& recorder = *comm->recorder();
  const FlightSlot& slot = recorder.slot();
  const std::uint64_t events = slot.written, beats = slot.beats;
  take(watched, steps);
  const RecorderCost recording = recorder_cost(recorder, steps, slot.written - events, slot.beats - beats);
  std::vector<double> without, with, checks, gain, cpu_gain;
  for (int r = 0; r < rounds; ++r, ++at) {
    const bool first = r % 2 == 0;
    const double c0 = cpu_seconds();
    const double a = take(first ? bare : watched, steps);
    const double c1 = cpu_seconds();
    const double b = take(first ? watched : bare, steps);
    const double c2 = cpu_seconds();
    cpu_gain.push_back(first ? (c2 - c1) / (c1 - c0) : (c1 - c0) / (c2 - c1));
    without.push_back(first ? a : b);
    with.push_back(first ? b : a);
    gain.push_back(with.back() / without.back());
    checks.push_back(timed(*comm, [&] { check.run(at); }));
  }
  if (comm->rank() == 0)
    std::cout << nlohmann::json{{"workload", workload},
                                {"ranks", comm->size()},
                                {"step_ms", median(without) * 1e3},
                                {"watched_step_ms", median(with) * 1e3},
                                {"watched_over_bare", median(gain)},
                                {"watched_over_bare_cpu", median(cpu_gain)},
                                {"replica_check_ms", median(checks) * 1e3},
                                {"replica_check_at_100_steps", median(checks) / (100 * median(without))},
                                {"recorder_events_per_step", recording.events},
                                {"recorder_event_ns", recording.event_ns},
                                {"recorder_beats_per_step", recording.beats},
                                {"recorder_beat_ns", recording.beat_ns},
                                {"recorder_share", recording.seconds() / median(without)}}
                     .dump()
              << std::endl;
  return 0;
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  try {
    return lockstep::bench(argc, argv);
  } catch (const std::exception& e) {
    std::cerr << "safeguards_bench: " << e.what() << '\n';
    std::_Exit(1);
  }
}
