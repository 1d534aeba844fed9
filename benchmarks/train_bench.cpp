// Throughput of Lockstep's training step on synthetic data held in memory, for comparison with other
// trainers.
//   mpirun -n 2 train_bench --workload resnet18_cifar --threads 1 --slices 2
// A timed step is everything: forward, loss, backward, the sum of gradients over all ranks, the optimizer
// (which overwrites, so nothing is zeroed apart). Each rank rotates 4 fixed batches. Prints one JSON line on
// rank 0. With --device cuda every rank computes on a GPU of its own. With --startup it leaves after the
// first step and prints the wall-clock time at which the slowest rank ended it. With --save_every N it
// measures what checkpoints cost: blocks of N steps, every other one of which begins a save with its first
// step, and all of which wait for it at their end.

#include <algorithm>
#include <boost/program_options.hpp>
#include <chrono>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "comm/join_watchdog.h"
#include "comm/mpi/mpi_communicator.h"
#include "comm/sync/step_control.h"
#include "comm/world.h"
#include "core/error.h"
#include "core/numerics/philox.h"
#include "device/cpu_info.h"
#include "device/lane_pool.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "model/zoo/zoo.h"
#include "support/make_batch.h"
#include "trainer/checkpoint/run_checkpoints.h"
#include "trainer/step/device_choice.h"
#include "trainer/step/model_state.h"
#include "trainer/step/train_step.h"
#include "watch/watchdog.h"

namespace lockstep {
namespace {

struct Workload {
  Graph graph;
  std::int64_t batch;  ///< per rank
  int steps;
  int warmup;
  Config::Optimizer optimizer;
  std::int64_t parameters;  ///< expected
};

Workload make_workload(const std::string& name) {
  Config::Optimizer sgd;
  sgd.lr = 0.1;
  sgd.momentum = 0.9;
  Config::Optimizer adam;
  adam.name = "adam";
  adam.lr = 1e-3;
  const OpAttrs loss = CrossEntropyAttrs{};
  if (name == "mlp")
    return {build_model("mlp", {{"hidden", "2048,2048"}}, {784}, 10, loss), 128, 60, 10, sgd, 5'824'522};
  if (name == "keras_cnn")
    return {build_layers("conv:32x3 relu maxpool:2 flatten dense:10", {1, 28, 28}, 10, loss),
            64,
            150,
            20,
            adam,
            54'410};
  if (name == "resnet18_cifar") {
    sgd.weight_decay = 5e-4;
    return {build_model("resnet18", {}, {3, 32, 32}, 10, loss), 32, 6, 2, sgd, 11'173'962};
  }
  if (name == "resnet50") {
    sgd.lr = 0.01;
    sgd.weight_decay = 1e-4;
    return {build_model("resnet50", {}, {3, 224, 224}, 1000, loss), 8, 4, 1, sgd, 25'557'032};
  }
  throw ConfigError("--workload: \"" + name + "\" is none of mlp, keras_cnn, resnet18_cifar, resnet50");
}

/// Four fixed batches of this rank's slices.
struct Batches {
  std::vector<std::vector<float>> inputs;
  std::vector<std::vector<std::int32_t>> labels;
  std::vector<std::vector<std::int64_t>> samples;
  std::vector<std::vector<Batch>> batches;

  Batches(const Graph& graph, Node mine, std::int64_t rows) {
    const std::int64_t width = graph.shape_of(graph.inputs[0]).elements();
    const auto classes = static_cast<std::uint32_t>(graph.shape_of(graph.output).elements());
    const auto count = static_cast<std::size_t>(4 * mine.size());
    inputs.reserve(count);
    labels.reserve(count);
    samples.reserve(count);
    for (std::uint64_t b = 0; b < 4; ++b) {
      std::vector<Batch> batch;
      for (std::int64_t s = mine.begin; s < mine.end; ++s) {
        const PhiloxKey key = random_key(1, Purpose::synthetic, b, static_cast<std::uint32_t>(s));
        std::vector<float> x(static_cast<std::size_t>(rows * width));
        for (std::size_t i = 0; i < x.size(); ++i)
          x[i] = 2 * uniform01(random_block(key, i / 4, 0).v[i % 4]) - 1;
        std::vector<std::int32_t> y;
        std::vector<std::int64_t> g;
        for (std::int64_t r = 0; r < rows; ++r) {
          y.push_back(
              static_cast<std::int32_t>(random_block(key, static_cast<std::uint64_t>(r), 1).v[0] % classes));
          g.push_back(s * rows + r);
        }
        inputs.push_back(std::move(x));
        labels.push_back(std::move(y));
        samples.push_back(std::move(g));
        batch.push_back(test::make_batch(s, rows, rows, samples.back(), inputs.back(), labels.back()));
      }
      batches.push_back(std::move(batch));
    }
  }
};

double percentile(const std::vector<double>& sorted, double q) {
  const double k = static_cast<double>(sorted.size() - 1) * q;
  const auto low = static_cast<std::size_t>(k);
  const std::size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (k - static_cast<double>(low));
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// Time of lane 0 per kind of event and op, over all recorded steps, longest first.
void print_profile(const Graph& graph, const Timeline& timeline, int steps) {
  std::map<std::string, double> sums;
  for (const TimelineEvent& e : timeline.events()) {
    if (e.lane != 0) continue;
    std::string name = name_of(e.kind);
    if (e.kind == EventKind::op_forward || e.kind == EventKind::op_backward)
      name += " " + graph.nodes[static_cast<std::size_t>(e.b)].name;
    sums[name] += static_cast<double>(e.end_ns - e.begin_ns) * 1e-6 / steps;
  }
  std::vector<std::pair<double, std::string>> rows;
  for (const auto& [name, sum] : sums) rows.emplace_back(sum, name);
  std::sort(rows.rbegin(), rows.rend());
  for (const auto& [sum, name] : rows) std::cerr << sum << " ms  " << name << '\n';
}

/// What a save every `every` steps costs, as JSON.
template <class Step>
nlohmann::json measure_saves(Communicator& comm, TrainStep& step, LanePool& lanes, Step&& one, int every,
                             int pairs, const std::string& directory, bool async) {
  const Log log;
  std::filesystem::create_directories(directory);
  RunCheckpoints checkpoints(comm, log, step, lanes, directory, {async, 2, allowed_cpus()});
  const auto now = [] {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  };
  // Of the whole process: says what a save costs where other programs take the cores.
  const auto cpu = [] {
    timespec t{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return 1e3 * static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_nsec);
  };
  double cpu_quiet = 0, cpu_saving = 0;
  std::vector<double> quiet_blocks, saving_blocks, quiet_steps, saving_steps, stops, costs;
  std::int64_t saves = 0;
  const auto block = [&](bool saving, std::vector<double>& steps) {
    comm.barrier();
    const double begin = now();
    for (int i = 0; i < every; ++i) {
      const double step_begin = now();
      one();
      checkpoints.poll();
      if (saving && i == 0) {
        RunState state;
        state.step = ++saves;
        state.slices = 1;
        const double stop = now();
        checkpoints.save(state);
        stops.push_back(now() - stop);
      }
      steps.push_back(now() - step_begin);
    }
    if (saving && !checkpoints.wait()) throw InputError("a save failed");
    return now() - begin;
  };
  for (int p = 0; p < pairs; ++p) {
    const double first = cpu();
    quiet_blocks.push_back(block(false, quiet_steps));
    const double second = cpu();
    saving_blocks.push_back(block(true, saving_steps));
    cpu_quiet += second - first;
    cpu_saving += cpu() - second;
    costs.push_back(100 * (saving_blocks.back() / quiet_blocks.back() - 1));
  }
  comm.barrier();
  for (std::vector<double>* v : {&quiet_blocks, &saving_blocks, &quiet_steps, &saving_steps, &stops, &costs})
    std::sort(v->begin(), v->end());
  return {{"save_every", every},
          {"pairs", pairs},
          {"async", async},
          {"median_step_ms", percentile(quiet_steps, 0.5)},
          {"median_step_saving_ms", percentile(saving_steps, 0.5)},
          {"mean_step_ms", percentile(quiet_blocks, 0.5) / every},
          {"mean_step_saving_ms", percentile(saving_blocks, 0.5) / every},
          {"stop_ms", percentile(stops, 0.5)},
          {"cpu_per_save_ms", (cpu_saving - cpu_quiet) / pairs},
          {"cpu_per_step_ms", cpu_quiet / pairs / every},
          {"cost_percent", percentile(costs, 0.5)},
          {"cost_percent_lowest", costs.front()},
          {"cost_percent_highest", costs.back()}};
}

int bench(int argc, char** argv) {
  namespace po = boost::program_options;
  std::string name;
  int threads = 1, steps = 0, warmup = -1;
  std::int64_t slices = 0, batch = 0;
  Config config;
  config.device.kind = "cpu";
  double bucket_mb = 4;
  int save_every = 0, pairs = 3, in_flight = 10;
  std::string save_dir = "train_bench.saves";
  bool save_sync = false;
  bool profile = false, startup = false, fast = false, unsharded = false, no_overlap = false,
       no_control = false, no_watchdog = false;
  po::options_description options("train_bench");
  options.add_options()("workload", po::value(&name)->required())("threads", po::value(&threads))(
      "slices", po::value(&slices), "S; default: one per rank")("steps", po::value(&steps))(
      "warmup", po::value(&warmup))("bucket_mb", po::value(&bucket_mb))("startup", po::bool_switch(&startup))(
      "profile", po::bool_switch(&profile), "milliseconds a step per op of rank 0, on standard error")(
      "save_every", po::value(&save_every), "steps; what checkpoints cost")("pairs", po::value(&pairs))(
      "save_dir", po::value(&save_dir), "must not hold a run")("save_sync", po::bool_switch(&save_sync))(
      "batch", po::value(&batch), "per rank; default: the workload's")(
      "device", po::value(&config.device.kind), "cpu or cuda")(
      "precision", po::value(&config.train.precision), "fp32, tf32, bf16 or fp16; the CPU has fp32 and bf16")(
      "graph", po::value(&config.device.graph), "cuda: whether kernels are captured")(
      "autotune", po::value(&config.device.autotune),
      "cuda: plans are measured instead of taken from heuristics")(
      "plan_cache", po::value(&config.device.plan_cache), "cuda: where measured plans are kept")(
      "in_flight", po::value(&in_flight),
      "steps a device may be ahead, as a training that logs every so many")(
      "share", po::bool_switch(&config.device.share), "cuda: several ranks may use one GPU")(
      "fast", po::bool_switch(&fast))("unsharded", po::bool_switch(&unsharded))(
      "no_overlap", po::bool_switch(&no_overlap))("no_control", po::bool_switch(&no_control),
                                                  "leave out the word by which ranks agree to stop")(
      "no_watchdog", po::bool_switch(&no_watchdog), "leave out the watchdog and the flight recorder");
  po::variables_map given;
  po::store(po::parse_command_line(argc, argv, options), given);
  po::notify(given);

  std::optional<Watchdog> watchdog;
  if (!no_watchdog) watchdog.emplace(copied_environment(), 60);
  MpiEnvironment environment(&argc, &argv, watchdog ? &watchdog->recorder() : nullptr);
  auto comm =
      make_world_communicator(environment, 0, [](const std::string& text) { std::cerr << text << '\n'; });
  if (watchdog) join_watchdog(*watchdog, *comm);
  check_device(config);
  const DeviceChoice choice = choose_device(config, *comm);
  bind_near(choice, config);
  LanePool lanes(threads);
  Workload work = make_workload(name);
  if (batch > 0) work.batch = batch;
  if (work.graph.parameter_count() != work.parameters)
    throw InternalError("the workload has another parameter count");
  TrainStepOptions step_options;
  step_options.optimizer = work.optimizer;
  step_options.device = open_device(choice, config);
  step_options.in_flight = in_flight;
  step_options.sync.slices = slices > 0 ? slices : comm->size();
  step_options.sync.sharded = !unsharded;
  step_options.sync.overlap = !no_overlap;
  step_options.sync.reduction = fast ? Reduction::fast : Reduction::ordered;
  step_options.sync.bucket_elements = static_cast<std::int64_t>(bucket_mb * (1 << 20) / 4);
  const std::int64_t global = work.batch * comm->size();
  if (global % step_options.sync.slices != 0) throw ConfigError("--slices must divide the global batch");
  step_options.slice_rows = global / step_options.sync.slices;
  Timeline timeline(profile ? std::size_t{1} << 18 : 0);
  const std::unique_ptr<TrainStep> made_step =
      make_train_step(work.graph, step_options, *comm, lanes, &timeline);
  TrainStep& step = *made_step;
  initialise_model(work.graph, step.executor(), 1, step.writable_parameters());
  comm->barrier();
  const Batches data(work.graph, step.slices(), step_options.slice_rows);
  std::vector<SliceResult> results(static_cast<std::size_t>(step.slices().size()));
  StepControl control(*comm);
  std::int64_t at = 0;
  auto settle = [&] {
    for (const SettledStep& settled : step.settle()) {
      const StepFault fault = settled.outcome.fault;  // the first scales of a loss may be too large
      if (fault != StepFault::none && fault != StepFault::overflow)
        throw DivergenceError("a step was not applied");
      std::copy(settled.results.begin(), settled.results.end(), results.begin());
    }
  };
  auto one = [&] {
    const std::vector<Batch>& batch = data.batches[static_cast<std::size_t>(at % 4)];
    if (!no_control) control.post(0);
    if (step.most_in_flight() == 1) {
      step.run(batch, global, at, work.optimizer.lr, results);
    } else {
      step.enqueue(batch, global, at, work.optimizer.lr);
      if (step.full()) settle();
    }
    if (!no_control) control.collect();
    ++at;
  };
  std::vector<double> all(static_cast<std::size_t>(comm->size()));
  auto gather = [&](double mine) {
    comm->all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)));
  };
  if (startup) {
    one();
    settle();
    gather(seconds_now());
    if (comm->rank() == 0)
      std::cout << nlohmann::json{{"first_step_end", *std::max_element(all.begin(), all.end())}}.dump()
                << std::endl;
    return 0;
  }
  const int warm = warmup >= 0 ? warmup : work.warmup;
  const int timed = steps > 0 ? steps : work.steps;
  for (int i = 0; i < warm; ++i) one();
  settle();
  comm->barrier();
  if (save_every > 0) {
    nlohmann::json told = measure_saves(*comm, step, lanes, one, save_every, pairs, save_dir, !save_sync);
    told.update({{"workload", name}, {"ranks", comm->size()}, {"threads", threads}});
    if (comm->rank() == 0) std::cout << told.dump() << std::endl;
    return 0;
  }
  std::vector<double> ms;
  ms.reserve(static_cast<std::size_t>(timed));
  auto last = std::chrono::steady_clock::now();
  int since = 0;
  for (int i = 0; i < timed; ++i) {
    one();
    ++since;
    if (i + 1 == timed) settle();
    if (step.in_flight() > 0) continue;  // of steps in flight the mean is known
    const auto now = std::chrono::steady_clock::now();
    ms.push_back(std::chrono::duration<double, std::milli>(now - last).count() / since);
    last = now;
    since = 0;
  }
  if (profile && comm->rank() == 0) print_profile(work.graph, timeline, warm + timed);
  std::sort(ms.begin(), ms.end());
  gather(static_cast<double>(peak_resident_bytes()) / (1 << 20));
  if (comm->rank() == 0) {
    double loss = 0, weight = 0;
    for (const SliceResult& r : results) {
      loss += r.loss;
      weight += r.weight;
    }
    const double median = percentile(ms, 0.5);
    std::cout << nlohmann::json{{"framework", "lockstep"},
                                {"workload", name},
                                {"ranks", comm->size()},
                                {"threads", threads},
                                {"slices", step_options.sync.slices},
                                {"reduction", fast ? "fast" : "ordered"},
                                {"sharded", !unsharded},
                                {"device", choice.kind == "cpu" ? choice.kind : choice.gpu.name},
                                {"dtype", config.train.precision},
                                {"batch_per_rank", work.batch},
                                {"steps", timed},
                                {"params", work.parameters},
                                {"median_ms", median},
                                {"p10_ms", percentile(ms, 0.1)},
                                {"p90_ms", percentile(ms, 0.9)},
                                {"samples_per_s", 1e3 * static_cast<double>(global) / median},
                                {"final_loss", loss / weight},
                                {"peak_rss_mib", all}}
                     .dump()
              << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  try {
    return lockstep::bench(argc, argv);
  } catch (const std::exception& e) {
    std::cerr << "train_bench: " << e.what() << '\n';
    return 2;
  }
}
