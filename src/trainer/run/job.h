#pragma once

#include <functional>
#include <memory>
#include <string>

#include "comm/communicator.h"
#include "comm/world.h"
#include "core/log.h"
#include "device/lane_pool.h"
#include "model/graph/graph.h"
#include "trainer/config/config.h"
#include "trainer/guard/fault_hooks.h"
#include "trainer/run/graph_function.h"
#include "trainer/step/device_choice.h"

namespace lockstep {

class Watchdog;

/// What every command that runs on ranks has in hand. Borrowed from main, which ends it in order.
struct Job {
  Communicator& comm;
  Log& log;
  /// (all) A communicator over the same ranks whose groups share memory, where every node has room for so
  /// many bytes a rank; else one that goes by messages, after a warning.
  std::function<std::unique_ptr<Communicator>(std::size_t bytes_per_rank)> make_shared;
  Watchdog* watchdog = nullptr;     ///< null where nobody watches
  GraphFunction custom_graph = {};  ///< of model.name = custom; empty in `lockstep` itself
  FaultHooks faults = {};           ///< of tests
  /// What the watchdog of this rank is told once the config is known: its time-out and where reports go.
  void watch(const Config& config) const;
  bool leader() const { return comm.rank() == 0; }
};

/// The graph that the config's model section describes, for samples of `input` and `outputs` outputs;
/// `custom` builds that of model.name = custom. Throws ConfigError when it does not fit.
Graph build_graph(const Config& config, const Shape& input, std::int64_t outputs,
                  const GraphFunction& custom);

/// The lanes of this rank, as device.threads and device.pin say, made and pinned.
struct Lanes {
  std::unique_ptr<LanePool> pool;
  std::vector<int> cpus;  ///< that this process may use, as it was before lanes were pinned
  std::string warning;    ///< what is doubtful about them; on the first rank of a host only, else empty
};
Lanes make_lanes(const Config& config, Communicator& comm);

/// This rank, for the table of ranks.
RankDescription describe_rank(const Lanes& lanes, const DeviceChoice& device = {});

/// What decides bits besides config and data: the binary, libraries, the processor, the kernels of the plan.
/// Lines of "name: value".
std::string numeric_fingerprint(const std::string& plan, const std::string& device = {});

/// (all) Reads the config of a command on rank 0 and gives it to all. For `train`: --config file (or,
/// resuming without one, that of the run directory) with the flags over it. A program with a model of its own
/// trains that where neither names one.
Config share_config(const CommandLine& command, const Job& job);

}  // namespace lockstep
