// mpirun -n N --bind-to none device_sum_bench [--mb 25] [--turns 21] [--bucket_mb 0] [--device cuda]
// [--share]
//
// How long N ranks with a GPU each take to sum a gradient that lies on the GPUs: along the canonical tree
// with everything handed to everybody, the same sharded, and by the library's own all-reduce (`fast`). The
// three take turns; a turn's time is that of the slowest rank, from the moment at which all have begun until
// its GPU has the sums. Bus bandwidth is 2 (N - 1) / N times the bytes over the time, as nccl-tests defines
// it. Prints one JSON line on rank 0.

#include <algorithm>
#include <boost/program_options.hpp>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>
#include <vector>

#include "comm/mpi/mpi_communicator.h"
#include "core/error.h"
#include "trainer/step/device_choice.h"
#include "trainer/step/device_step.h"

namespace lockstep {
namespace {

struct Way {
  const char* name;
  Reduction reduction;
  bool sharded;
  std::unique_ptr<GradientSync> sync = nullptr;
  std::vector<double> seconds = {};
};

int bench(int argc, char** argv) {
  namespace po = boost::program_options;
  double megabytes = 25, bucket_mb = 0;
  int turns = 21;
  Config config;
  config.device.kind = "cuda";
  po::options_description options("device_sum_bench");
  options.add_options()("mb", po::value(&megabytes), "MiB of gradient")("turns", po::value(&turns))(
      "bucket_mb", po::value(&bucket_mb), "0: one bucket")("device", po::value(&config.device.kind))(
      "share", po::bool_switch(&config.device.share), "several ranks may use one GPU");
  po::variables_map given;
  po::store(po::parse_command_line(argc, argv, options), given);
  po::notify(given);
  if (!(megabytes > 0 && megabytes < 8000) || turns < 1 || !(bucket_mb >= 0))
    throw ConfigError("--mb is above 0 and below 8000, --turns at least 1, --bucket_mb at least 0");

  MpiEnvironment environment(&argc, &argv);
  const auto comm = make_world_communicator(environment, 0, nullptr);
  check_device(config);
  const DeviceChoice choice = choose_device(config, *comm);
  const ComputeDevice device = open_device(choice, config);
  if (!device.make_step)
    throw ConfigError("--device: this one has no memory of its own; use allreduce_bench");
  const std::unique_ptr<DeviceStep> step = device.make_step();
  const auto elements = static_cast<std::int64_t>(megabytes * 262144.0);

  Way ways[] = {{"ordered", Reduction::ordered, false},
                {"ordered_sharded", Reduction::ordered, true},
                {"fast", Reduction::fast, false}};
  const std::vector<float> ones(static_cast<std::size_t>(elements), static_cast<float>(comm->rank() + 1));
  for (Way& way : ways) {
    GradientSyncOptions sync;
    sync.slices = comm->size();
    sync.reduction = way.reduction;
    sync.sharded = way.sharded;
    sync.bucket_elements = static_cast<std::int64_t>(bucket_mb * 262144.0);
    way.sync = device.make_sync(*comm, elements, sync, nullptr);
  }
  std::vector<double> all(static_cast<std::size_t>(comm->size()));
  constexpr int warm_up = 3;
  for (int turn = 0; turn < turns + warm_up; ++turn) {
    for (Way& way : ways) {
      way.sync->begin_step(turn);
      step->write(on_device(way.sync->slot(0)).data(), ones);  // sums may be made in place
      comm->barrier();
      const auto begin = std::chrono::steady_clock::now();
      way.sync->ready({0, elements});
      way.sync->finish();
      step->finish();
      const double mine = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      comm->all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)));
      if (turn >= warm_up) way.seconds.push_back(*std::max_element(all.begin(), all.end()));
    }
  }
  const double n = comm->size();
  nlohmann::json told = {{"ranks", comm->size()},
                         {"device", choice.gpu.name},
                         {"shared", choice.shared},
                         {"mib", megabytes},
                         {"turns", turns}};
  for (Way& way : ways) {
    for (const TotalView& view : way.sync->totals()) {  // what was measured must be the sum
      std::vector<float> got(static_cast<std::size_t>(view.range.size()));
      step->read(DevicePointer<const float>(view.data), got);
      for (const float value : got)
        if (value != static_cast<float>(n * (n + 1) / 2)) throw InternalError("the sum is wrong");
    }
    std::sort(way.seconds.begin(), way.seconds.end());
    const double median = way.seconds[way.seconds.size() / 2];
    told[way.name] = {{"median_us", 1e6 * median},
                      {"bus_gb_per_s", 2 * (n - 1) / n * static_cast<double>(elements) * 4e-9 / median}};
  }
  if (comm->rank() == 0) std::cout << told.dump() << std::endl;
  comm->barrier();
  return 0;
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  try {
    return lockstep::bench(argc, argv);
  } catch (const std::exception& e) {
    std::cerr << "device_sum_bench: " << e.what() << '\n';
    return 2;
  }
}
