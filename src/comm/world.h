#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/environment.h"
#include "core/launcher.h"

namespace lockstep {

/// (one) Refuses a start that cannot become one job. `world_size` 0: MPI has not started; then a process with
/// a rank of a launcher that offers MPI nothing, or whose server does not listen (any more), is refused, and
/// so is one with the address of an mpirun that is gone; the message names all the variables that a launcher
/// left. `world_size` 1: one to which a launcher announced several tasks, each of which would train for
/// itself. Throws ConfigError, in every such process: none can know whether another one speaks.
void refuse_doubtful_launch(int world_size, const Environment& environment = process_environment());

/// Before MPI starts, and before other threads: where no launcher is seen, Open MPI is told to start no
/// daemon of its own, to make no folder in TMPDIR and to look for no network, by variables of the environment
/// that the user has not set. The daemon would serve MPI_Comm_spawn alone, which Lockstep does not call; it
/// fails without a network or a TMPDIR, and can outlive the program.
void start_without_daemon(const Environment& environment = process_environment());

/// What a rank tells the others about itself.
struct RankDescription {
  std::string host;
  long pid = 0;
  std::string device;            ///< for people: "cpu", "NVIDIA H100 …"
  std::string exclusive_device;  ///< what no two ranks of a host may share, e.g. a GPU's UUID; empty: nothing
  int lanes = 1;
  std::vector<int> cpus;  ///< its affinity mask
};

/// All ranks, known to all.
struct World {
  Topology topology;
  std::vector<RankDescription> ranks;
  /// The table of ranks, hosts, processes, devices, lanes and cpus; a line each, no newline at the end.
  std::string table() const;
};

/// (all) Collects the descriptions. When two ranks of a host name the same exclusive device, throws
/// ConfigError that names both on rank 0, and SilentError on the others.
World gather_world(Communicator& comm, const RankDescription& mine);

/// (all) Holds the numeric fingerprint of every rank, lines of text, against that of rank 0. Where one
/// differs, throws ConfigError that names the first such rank, its host and the first line that differs on
/// rank 0, and SilentError on the others; with `allow`, returns that sentence on every rank instead. Empty
/// when all are equal.
std::string check_equal_fingerprints(Communicator& comm, const std::string& fingerprint, bool allow);

/// How a rank uses the cpus that it may run on.
struct LanePlan {
  int lanes = 1;
  std::vector<int> cpus;  ///< the cpu of each lane; empty: lanes are not pinned
  std::string warning;    ///< a sentence when lanes must share cpus; empty otherwise
};

/// What decides the plans of the ranks of all hosts.
struct RankCpus {
  std::string host;
  std::vector<int> cpus;  ///< affinity mask, ascending
  int lanes = 0;          ///< asked for; 0: as many as there are cpus for it
};

/// The plan of rank `rank`, as every rank can work it out. By default a rank has as many lanes as cpus in its
/// mask, divided by the ranks of its host whose masks meet it, at least 1. Ranks with one and the same mask
/// divide it by rank number; each lane gets its own cpu where there is one for every lane.
LanePlan plan_lanes(std::span<const RankCpus> ranks, int rank);

/// (all) The same, from the masks of all ranks. `lanes` 0: the default.
LanePlan lanes_for_rank(Communicator& comm, int lanes);

}  // namespace lockstep
