#include "trainer/doctor_command.h"

#include <chrono>
#include <fmt/format.h>
#include <iostream>
#include <vector>

#include "comm/mpi_communicator.h"
#include "core/error.h"
#include "core/file.h"
#include "core/text.h"
#include "device/cpu_info.h"
#include "device/lane_pool.h"
#include "model/executor.h"

namespace lockstep {
namespace {

constexpr int ping_tag = 83;

void complete(Request& request) {
  unsigned spins = 0;
  while (!request.test()) relax(spins);
}

/// Seconds for `repeats` round trips of `bytes` between rank 0 and `peer`; both call it, the result is rank
/// 0's.
double round_trips(Communicator& comm, int peer, std::vector<std::byte>& data, int repeats) {
  const auto begin = std::chrono::steady_clock::now();
  const int other = comm.rank() == 0 ? peer : 0;
  for (int i = 0; i < repeats; ++i) {
    if (comm.rank() == 0) {
      complete(*comm.send(data, other, ping_tag));
      complete(*comm.receive(data, other, ping_tag));
    } else {
      complete(*comm.receive(data, other, ping_tag));
      complete(*comm.send(data, other, ping_tag));
    }
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// What two ranks that share cpus do to each other: a finding for each pair bound to one and the same single
/// cpu.
std::vector<std::string> binding_findings(const World& world) {
  std::vector<std::string> findings;
  for (std::size_t a = 0; a < world.ranks.size(); ++a)
    for (std::size_t b = a + 1; b < world.ranks.size(); ++b)
      if (world.ranks[a].host == world.ranks[b].host && world.ranks[a].cpus.size() == 1 &&
          world.ranks[a].cpus == world.ranks[b].cpus)
        findings.push_back(
            fmt::format("ranks {} and {} on {} are both bound to cpu {}: start mpirun with --bind-to none", a,
                        b, world.ranks[a].host, world.ranks[a].cpus[0]));
  return findings;
}

}  // namespace

int doctor_command(const CommandLine& command, Job& job) {
  Communicator& comm = job.comm;
  Config config;
  std::vector<std::string> findings;
  together(comm, [&] {
    for (const auto& [key, source] : command.overrides)
      if (key == "device.threads")
        config.device.threads = static_cast<int>(parse_int64(source.value).value_or(0));
  });
  Lanes lanes = make_lanes(config, comm);
  const World world = alike(comm, [&] { return gather_world(comm, describe_rank(lanes)); });
  const auto say = [&](const std::string& text) {
    if (job.leader()) std::cout << text << '\n';
  };
  say(world.table());
  const CpuInfo cpu = cpu_info();
  say(fmt::format("processor: {}, {}, caches {} / {} / {}", cpu.model, cpu.isa,
                  human_bytes(static_cast<std::uint64_t>(cpu.l1d_bytes)),
                  human_bytes(static_cast<std::uint64_t>(cpu.l2_bytes)),
                  human_bytes(static_cast<std::uint64_t>(cpu.l3_bytes))));
  say("libraries: " + MpiEnvironment::library_version() + "; " + cpu_library_version());
  say("devices: cpu; cuda is not part of this build");
  say(fmt::format("/dev/shm: {} free", human_bytes(free_bytes("/dev/shm"))));
  if (!lanes.warning.empty()) findings.push_back(lanes.warning);
  for (std::string& finding : binding_findings(world)) findings.push_back(std::move(finding));

  const std::string difference = check_equal_fingerprints(comm, numeric_fingerprint(""), true);
  if (!difference.empty()) findings.push_back(difference);

  const auto shared = job.make_shared(std::size_t{1} << 20);
  const auto region = shared->allocate_shared(std::size_t{1} << 20);
  const Topology& topology = shared->topology();
  const int neighbour = topology.group_begin[static_cast<std::size_t>(topology.group())];
  bool seen = true;
  *reinterpret_cast<volatile int*>(region->base(topology.rank)) = topology.rank + 1;
  shared->barrier();
  seen = *reinterpret_cast<volatile int*>(region->base(neighbour)) == neighbour + 1;
  together(comm, [&] {
    if (!seen)
      throw CommError(
          fmt::format("rank {} cannot see what rank {} wrote into shared memory", topology.rank, neighbour));
  });
  say(fmt::format("shared windows: work, {} group{} of ranks", topology.groups(),
                  topology.groups() == 1 ? "" : "s"));

  for (int peer = 1; peer < comm.size(); ++peer) {
    if (comm.rank() != 0 && comm.rank() != peer) continue;
    std::vector<std::byte> small(8), large(std::size_t{4} << 20);
    round_trips(comm, peer, small, 10);
    const double latency = round_trips(comm, peer, small, 100) / 200;
    round_trips(comm, peer, large, 1);
    const double seconds = round_trips(comm, peer, large, 4) / 8;
    say(fmt::format("messages between rank 0 and rank {}: {:.1f} us, {} a second", peer, latency * 1e6,
                    human_bytes(static_cast<std::uint64_t>(static_cast<double>(large.size()) / seconds))));
  }
  comm.barrier();
  for (const std::string& finding : findings) say("doubtful: " + finding);
  if (findings.empty()) say("nothing doubtful was found");
  if (job.leader()) std::cout << std::flush;
  return static_cast<int>(ExitCode::done);
}

}  // namespace lockstep
