#include "trainer/step/device_choice.h"

#include <algorithm>
#include <fmt/format.h>
#include <iterator>
#include <nlohmann/json.hpp>
#include <pthread.h>

#include "core/error.h"
#include "device/cpu_info.h"

namespace lockstep {
namespace {

const DeviceEntry& entry_of(const std::vector<DeviceEntry>& entries, const std::string& name) {
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const DeviceEntry& entry) { return entry.name == name; });
  require(found != entries.end(), "device.kind allows a device that is not in the table");
  return *found;
}

std::string packed(const GpuProbe& probe) {
  nlohmann::json gpus = nlohmann::json::array();
  for (const GpuInfo& gpu : probe.gpus)
    gpus.push_back({gpu.ordinal, gpu.name, gpu.uuid, gpu.pci_bus_id, gpu.capability_major,
                    gpu.capability_minor, gpu.multiprocessors, gpu.memory_bytes});
  return nlohmann::json{{"host", host_name()}, {"gpus", gpus}, {"problem", probe.problem}}.dump(
      -1, ' ', false, nlohmann::json::error_handler_t::replace);
}

RankGpus unpacked(const std::string& text, int node) {
  const nlohmann::json json = nlohmann::json::parse(text);
  RankGpus rank;
  rank.host = json.at("host");
  rank.node = node;
  rank.problem = json.at("problem");
  for (const nlohmann::json& g : json.at("gpus"))
    rank.gpus.push_back({g.at(0), g.at(1), g.at(2), g.at(3), g.at(4), g.at(5), g.at(6), g.at(7)});
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
  together(comm, [&] { check_device(config, entries); });
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
  for (const std::string& text : comm.all_gather_text(packed(probe)))
    ranks.push_back(unpacked(text, comm.topology().group_of[ranks.size()]));
  const GpuAssignment assignment = assign_gpus(ranks, wanted && config.device.share);
  if (!assignment.problem.empty()) {
    if (wanted) {
      alike(comm, [&] {
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
      alike(comm, [&] {
        throw ConfigError(fmt::format(
            "comm.backend = nccl: NCCL sums between GPUs, and no GPU can be used: {}; use mpi or auto",
            assignment.problem));
      });
    }
    if (config.train.precision != "fp32") {
      alike(comm, [&] {
        throw ConfigError(
            fmt::format("train.precision = {}: the CPU computes in fp32 only, and no GPU can be used: {}",
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
    alike(comm, [&] {
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
  if (choice.kind == "cpu") return {};
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
