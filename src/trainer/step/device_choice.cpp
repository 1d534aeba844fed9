#include "trainer/step/device_choice.h"

#include <algorithm>
#include <fmt/format.h>
#include <iterator>
#include <pthread.h>

#include "core/error.h"
#include "core/wire.h"
#include "device/cpu_info.h"

namespace lockstep {
namespace {

const DeviceEntry& entry_of(const std::vector<DeviceEntry>& entries, const std::string& name) {
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const DeviceEntry& entry) { return entry.name == name; });
  require(found != entries.end(), "device.kind allows a device that is not in the table");
  return *found;
}

std::string to_wire(const GpuProbe& probe) {
  WireWriter out;
  out.add(host_name()).add(probe.problem).begin_list(probe.gpus.size());
  for (const GpuInfo& g : probe.gpus) {
    out.add(g.ordinal).add(g.name).add(g.uuid).add(g.pci_bus_id).add(g.capability_major);
    out.add(g.capability_minor).add(g.multiprocessors).add(g.memory_bytes);
  }
  return out.text();
}

RankGpus gpus_from(const std::string& text, int node) {
  WireReader in(text);
  RankGpus rank;
  rank.host = in.get<std::string>();
  rank.node = node;
  rank.problem = in.get<std::string>();
  rank.gpus.resize(in.get_list());
  for (GpuInfo& g : rank.gpus) {
    g.ordinal = in.get<int>();
    g.name = in.get<std::string>();
    g.uuid = in.get<std::string>();
    g.pci_bus_id = in.get<std::string>();
    g.capability_major = in.get<int>();
    g.capability_minor = in.get<int>();
    g.multiprocessors = in.get<int>();
    g.memory_bytes = in.get<std::uint64_t>();
  }
  in.finish();
  return rank;
}

}  // namespace

void check_device(const Config& config, const std::vector<DeviceEntry>& entries) {
  if (config.device.kind == "auto" || config.device.kind == "cpu") return;
  const DeviceEntry& entry = entry_of(entries, config.device.kind);
  if (!entry.built)
    throw ConfigError(
        fmt::format("device.kind: {} was asked for, but this Lockstep was built for the CPU alone ({}); use "
                    "--device cpu or auto, or "
                    "build it with {} (docs/cuda.md)",
                    entry.name, entry.missing, entry.name));
  if (const GpuProbe probe = entry.probe(); probe.gpus.empty())
    throw ConfigError(
        fmt::format("device.kind: {} was asked for, but {} has no GPU for it: {}; use --device cpu or auto",
                    entry.name, host_name(), probe.problem));
}

DeviceChoice choose_device(const Config& config, Communicator& comm,
                           const std::vector<DeviceEntry>& entries) {
  DeviceChoice choice;
  if (config.device.kind == "cpu") return choice;
  agree_on_error(comm, [&] { check_device(config, entries); });
  const bool wanted = config.device.kind != "auto";
  // There is one kind besides the CPU; with a second, `auto` would try them in the order of the table.
  const DeviceEntry& entry = entry_of(entries, wanted ? config.device.kind : "cuda");
  GpuProbe probe;
  if (entry.built) {
    probe = entry.probe();
  } else {
    probe.problem = entry.missing;
  }
  std::vector<RankGpus> ranks;
  for (const std::string& text : comm.all_gather_text(to_wire(probe)))
    ranks.push_back(gpus_from(text, comm.topology().group_of[ranks.size()]));
  const GpuAssignment assignment = assign_gpus(ranks, wanted && config.device.share);
  if (!assignment.problem.empty()) {
    if (wanted) {
      report_once(comm, [&] {
        throw ConfigError(
            fmt::format("device.kind: {} was asked for, but {}: start at most one rank per GPU, show each "
                        "rank another one "
                        "(CUDA_VISIBLE_DEVICES), or allow it with --device.share, which sends collectives "
                        "through the host",
                        entry.name, assignment.problem));
      });
    }
    if (std::any_of(ranks.begin(), ranks.end(), [](const RankGpus& rank) { return !rank.gpus.empty(); }))
      choice.note = fmt::format("device.kind = auto: computing on the CPU, because {}", assignment.problem);
    if (config.comm.backend == "nccl") {
      report_once(comm, [&] {
        throw ConfigError(fmt::format(
            "comm.backend = nccl: NCCL sums between GPUs, and no GPU can be used: {}; use mpi or auto",
            assignment.problem));
      });
    }
    if (config.train.precision != "fp32" && config.train.precision != "bf16") {
      report_once(comm, [&] {
        throw ConfigError(fmt::format(
            "train.precision = {}: the CPU computes in fp32 and bf16 only, and no GPU can be used: {}",
            config.train.precision, assignment.problem));
      });
    }
    return choice;
  }
  const auto me = static_cast<std::size_t>(comm.rank());
  choice.kind = entry.name;
  choice.gpu = ranks[me].gpus[static_cast<std::size_t>(assignment.chosen[me])];
  choice.shared = assignment.shared;
  if (choice.shared && config.comm.backend == "nccl") {
    report_once(comm, [&] {
      throw ConfigError(
          "comm.backend = nccl: ranks share a GPU (device.share, or instances of one by MIG), which NCCL "
          "refuses: use mpi "
          "or auto");
    });
  }
  if (!choice.shared) choice.warning = hidden_peers_warning(ranks, assignment);
  return choice;
}

ComputeDevice open_device(const DeviceChoice& choice, const Config& config,
                          const std::vector<DeviceEntry>& entries) {
  if (choice.kind == "cpu") return cpu_device(precision_of(config.train.precision));
  return entry_of(entries, choice.kind).open(choice.gpu, choice.shared, config);
}

void bind_near(const DeviceChoice& choice, const Config& config, const std::string& sysfs) {
  if (choice.kind == "cpu" || !config.device.pin) return;
  const std::vector<int> near = cpus_near_pci(choice.gpu.pci_bus_id, sysfs);
  const std::vector<int> allowed = allowed_cpus();
  std::vector<int> both;
  std::set_intersection(near.begin(), near.end(), allowed.begin(), allowed.end(), std::back_inserter(both));
  if (!both.empty() && both.size() < allowed.size()) pin_thread(pthread_self(), both);
}

}  // namespace lockstep
