// mpirun -n 2 --bind-to none allreduce_bench [MiB [turns [bucket MiB]]]
//
// How long the ranks of one node take to sum a gradient of 25 MiB: the ordered sum through GradientSync, with
// everything handed to everybody and sharded, against MPI_Allreduce on ordinary buffers and against all ranks
// copying as many bytes at once. The four take turns; a turn's time is that of the slowest rank. Prints one
// JSON object.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fmt/format.h>
#include <functional>
#include <mpi.h>
#include <vector>

#include "comm/mpi/mpi_communicator.h"
#include "comm/sync/gradient_sync.h"
#include "device/memory.h"

namespace lockstep {
namespace {

struct Summary {
  double p10, median, p90;
};

Summary summary_of(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  const auto at = [&](double q) {
    return v[static_cast<std::size_t>(q * static_cast<double>(v.size() - 1) + 0.5)];
  };
  return {at(0.1), at(0.5), at(0.9)};
}

std::string json(const Summary& s) {
  return fmt::format(R"({{"median_us":{:.0f},"p10_us":{:.0f},"p90_us":{:.0f}}})", s.median, s.p10, s.p90);
}

/// (all) Microseconds that the slowest rank takes for `work`, begun by all at once.
double slowest(Communicator& comm, const std::function<void()>& work) {
  comm.barrier();
  const auto begin = std::chrono::steady_clock::now();
  work();
  const double mine =
      std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
  double most = 0;
  MPI_Allreduce(&mine, &most, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return most;
}

std::unique_ptr<GradientSync> make_sync(Communicator& comm, std::int64_t elements, std::int64_t bucket,
                                        bool sharded) {
  GradientSyncOptions options;
  options.sharded = sharded;
  options.overlap = false;
  options.slices = comm.size();
  options.bucket_elements = bucket;
  return GradientSync::create(comm, elements, options);
}

void fill(std::span<float> data, int rank) {
  for (std::size_t i = 0; i < data.size(); ++i)
    data[i] = static_cast<float>(i % 64) + static_cast<float>(rank);
}

int bench(MpiEnvironment& mpi, double mebibytes, int turns, double bucket_mebibytes) {
  const auto elements = static_cast<std::int64_t>(mebibytes * 262144.0);
  const auto bucket = static_cast<std::int64_t>(bucket_mebibytes * 262144.0);
  const auto comm = make_world_communicator(mpi, 0, nullptr);
  const auto everybody = make_sync(*comm, elements, bucket, false);
  const auto sharded = make_sync(*comm, elements, bucket, true);
  const std::size_t bytes = static_cast<std::size_t>(elements) * sizeof(float);
  HostBuffer plain(bytes);
  HostBuffer copy(bytes);

  std::vector<double> t_everybody, t_sharded, t_mpi, t_copy;
  const auto sum = [&](GradientSync& sync, int turn) {
    sync.begin_step(turn);
    fill(sync.slot(0), comm->rank());
    return slowest(*comm, [&] {
      sync.ready({0, elements});
      sync.finish();
    });
  };
  constexpr int warm_up = 3;
  for (int turn = 0; turn < turns + warm_up; ++turn) {
    const double a = sum(*everybody, turn);
    const double b = sum(*sharded, turn);
    fill(plain.as<float>(), comm->rank());
    const double c = slowest(*comm, [&] {
      MPI_Allreduce(MPI_IN_PLACE, plain.data(), static_cast<int>(elements), MPI_FLOAT, MPI_SUM,
                    MPI_COMM_WORLD);
    });
    fill(plain.as<float>(), comm->rank());
    const double d = slowest(*comm, [&] { std::memcpy(copy.data(), plain.data(), bytes); });
    if (turn < warm_up) continue;
    t_everybody.push_back(a);
    t_sharded.push_back(b);
    t_mpi.push_back(c);
    t_copy.push_back(d);
  }
  // What was measured must be the sum.
  const float expected = static_cast<float>(comm->size() * (comm->size() - 1) / 2);
  const TotalView& first = everybody->totals().front();
  if (elements > 0 && first.data[0] != expected) {
    std::fprintf(stderr, "allreduce_bench: the sum is wrong\n");
    return 1;
  }
  if (comm->rank() == 0) {
    const Summary e = summary_of(t_everybody), s = summary_of(t_sharded), m = summary_of(t_mpi),
                  c = summary_of(t_copy);
    fmt::print(
        R"({{"ranks":{},"bytes":{},"turns":{},"buckets":{},"shared_memory":{},"ordered":{},"ordered_sharded":{},)"
        R"("mpi_allreduce":{},"copy":{},"ordered_over_copy":{:.3f},"sharded_over_copy":{:.3f},)"
        R"("mpi_over_ordered":{:.2f},"mpi_over_sharded":{:.2f}}})"
        "\n",
        comm->size(), bytes, turns, everybody->buckets(), comm->topology().groups() == 1, json(e), json(s),
        json(m), json(c), e.median / c.median, s.median / c.median, m.median / e.median, m.median / s.median);
  }
  comm->barrier();
  return 0;
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  lockstep::MpiEnvironment mpi(&argc, &argv);
  const auto argument = [&](int i, double otherwise) { return argc > i ? std::atof(argv[i]) : otherwise; };
  const double mebibytes = argument(1, 25);
  const int turns = static_cast<int>(argument(2, 21));
  const double bucket = argument(3, 0);
  if (!(mebibytes > 0 && mebibytes < 8000) || turns < 1 || !(bucket >= 0)) {
    std::fprintf(stderr, "use: allreduce_bench [MiB below 8000 [turns [bucket MiB]]]\n");
    return 2;
  }
  try {
    return lockstep::bench(mpi, mebibytes, turns, bucket);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "allreduce_bench: %s\n", e.what());
    lockstep::MpiEnvironment::abort(1);
  }
}
