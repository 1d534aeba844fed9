#pragma once

#include <cstdint>
#include <string>
#include <vector>

// GPUs as data: what a probe found, and who uses which. No library of any vendor is needed to read this, so
// that it is the same in every build.

namespace lockstep {

/// A GPU that this process may use.
struct GpuInfo {
  int ordinal = 0;         ///< as the vendor's runtime numbers those that are visible
  std::string name;        ///< "NVIDIA H100 80GB HBM3"
  std::string uuid;        ///< "GPU-1b2c…": the same in every process of the host
  std::string pci_bus_id;  ///< "0000:3B:00.0"
  int capability_major = 0;
  int capability_minor = 0;
  int multiprocessors = 0;
  std::uint64_t memory_bytes = 0;
  friend bool operator==(const GpuInfo&, const GpuInfo&) = default;
};

/// The visible GPUs, or a clause that says why there are none.
struct GpuProbe {
  std::vector<GpuInfo> gpus;
  std::string problem;
};

/// What one rank knows, for assign_gpus().
struct RankGpus {
  std::string host;           ///< for messages
  int node = 0;               ///< ranks of one number are on one machine
  std::vector<GpuInfo> gpus;  ///< visible to it
  std::string problem;        ///< why there are none
};

/// Which GPU each rank takes.
struct GpuAssignment {
  std::vector<int> chosen;  ///< by rank: index into its `gpus`; empty when `problem` is set
  bool shared = false;      ///< some GPU, or instances of one (MIG), are used by two ranks
  std::string problem;      ///< a sentence without its end, why ranks cannot each have one; empty: they can
};

/// Gives every rank a GPU that no other rank of its host has, wherever that is possible at all: ranks may see
/// different sets (CUDA_VISIBLE_DEVICES, GPUs per task). Where all see one list, local rank i gets entry i.
/// Ranks without one share when `share` is set, dealt out in turn; otherwise `problem` names the two ranks
/// and the GPU. A pure function: every rank works out the same.
GpuAssignment assign_gpus(const std::vector<RankGpus>& ranks, bool share);

/// A sentence when ranks of one host do not see each other's GPUs, so that NCCL cannot use NVLink or peer
/// access between them and goes through host memory; empty otherwise.
std::string hidden_peers_warning(const std::vector<RankGpus>& ranks, const GpuAssignment& assignment);

/// A sentence for a GPU that a program built for `architectures` ("90-real, 100-real") has no code for.
std::string no_code_text(const GpuInfo& gpu, const std::string& architectures);

/// The cpus next to the PCI device (local_cpulist), ascending; empty where the system does not say. `sysfs`
/// is for tests.
std::vector<int> cpus_near_pci(const std::string& bus_id, const std::string& sysfs = "/sys");

/// "0-3,8" as numbers; empty when it is no such list.
std::vector<int> parse_cpu_list(const std::string& text);

}  // namespace lockstep
