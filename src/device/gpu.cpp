#include "device/gpu.h"

#include <algorithm>
#include <cctype>
#include <fmt/format.h>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"

namespace lockstep {
namespace {

std::vector<std::size_t> ranks_of_node(const std::vector<RankGpus>& ranks, int node) {
  std::vector<std::size_t> members;
  for (std::size_t r = 0; r < ranks.size(); ++r)
    if (ranks[r].node == node) members.push_back(r);
  return members;
}

/// Ranks of one host and the GPUs that they hold so far.
class Matching {
 public:
  Matching(const std::vector<RankGpus>& ranks, std::vector<int>& chosen) : ranks_(ranks), chosen_(chosen) {}

  /// Finds `rank` a GPU, moving other ranks to another one of theirs where that helps (an augmenting path:
  /// Kuhn's algorithm for bipartite matching).
  bool place(std::size_t rank) {
    tried_.clear();
    return augment(rank);
  }
  /// The rank that holds the GPU.
  std::size_t holder(const std::string& uuid) const { return holders_.at(uuid); }

 private:
  bool augment(std::size_t rank) {
    const std::vector<GpuInfo>& gpus = ranks_[rank].gpus;
    // A free one first, so that nobody moves without need and local rank i of a common list gets entry i.
    for (std::size_t i = 0; i < gpus.size(); ++i)
      if (holders_.count(gpus[i].uuid) == 0) return take(rank, i);
    for (std::size_t i = 0; i < gpus.size(); ++i) {
      if (!tried_.insert(gpus[i].uuid).second) continue;
      if (augment(holders_.at(gpus[i].uuid))) return take(rank, i);
    }
    return false;
  }
  bool take(std::size_t rank, std::size_t index) {
    holders_[ranks_[rank].gpus[index].uuid] = rank;
    chosen_[rank] = static_cast<int>(index);
    return true;
  }

  const std::vector<RankGpus>& ranks_;
  std::vector<int>& chosen_;
  std::map<std::string, std::size_t> holders_;
  std::set<std::string> tried_;
};

std::string no_gpu_text(const RankGpus& rank, std::size_t number) {
  return fmt::format("rank {} on {} has no GPU: {}", number, rank.host, rank.problem);
}

}  // namespace

GpuAssignment assign_gpus(const std::vector<RankGpus>& ranks, bool share) {
  GpuAssignment result;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    if (!ranks[r].gpus.empty()) continue;
    result.problem = no_gpu_text(ranks[r], r);
    return result;
  }
  std::vector<int> chosen(ranks.size(), -1);
  std::set<int> seen;
  for (const RankGpus& rank : ranks) {
    if (!seen.insert(rank.node).second) continue;
    const std::vector<std::size_t> members = ranks_of_node(ranks, rank.node);
    Matching matching(ranks, chosen);
    std::size_t turn = 0;
    for (const std::size_t r : members) {
      if (matching.place(r)) continue;
      const std::size_t index = turn++ % ranks[r].gpus.size();
      const GpuInfo& gpu = ranks[r].gpus[index];
      if (!share) {
        const std::size_t other = matching.holder(gpu.uuid);
        result.problem = fmt::format("ranks {} and {} on {} would share one GPU, {} ({})", other, r,
                                     rank.host, gpu.name, gpu.uuid);
        return result;
      }
      chosen[r] = static_cast<int>(index);
      result.shared = true;
    }
  }
  // Instances (MIG) of one GPU have names of their own, but NCCL knows a GPU by its place on the bus, and
  // refuses two ranks there as if they shared it.
  std::set<std::pair<int, std::string>> places;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    const std::string& place = ranks[r].gpus[static_cast<std::size_t>(chosen[r])].pci_bus_id;
    if (!place.empty() && !places.emplace(ranks[r].node, place).second) result.shared = true;
  }
  result.chosen = std::move(chosen);
  return result;
}

std::string hidden_peers_warning(const std::vector<RankGpus>& ranks, const GpuAssignment& assignment) {
  if (!assignment.problem.empty()) return {};
  for (std::size_t a = 0; a < ranks.size(); ++a) {
    for (std::size_t b = 0; b < ranks.size(); ++b) {
      if (a == b || ranks[a].node != ranks[b].node) continue;
      const GpuInfo& peer = ranks[b].gpus[static_cast<std::size_t>(assignment.chosen[b])];
      const bool sees = std::any_of(ranks[a].gpus.begin(), ranks[a].gpus.end(),
                                    [&](const GpuInfo& gpu) { return gpu.uuid == peer.uuid; });
      if (sees) continue;
      return fmt::format(
          "rank {} on {} does not see the GPU of rank {}, so NCCL cannot use NVLink between them: show every "
          "rank of "
          "a host all of its GPUs (srun --gpus-per-node instead of --gpus-per-task, one CUDA_VISIBLE_DEVICES "
          "for all)",
          a, ranks[a].host, b);
    }
  }
  return {};
}

std::vector<int> parse_cpu_list(const std::string& text) {
  constexpr std::int64_t most = 1 << 20;
  std::vector<int> cpus;
  for (const std::string_view part : split(std::string_view(text).substr(0, text.find('\n')), ',')) {
    const std::size_t dash = part.find('-');
    const std::optional<std::int64_t> first = parse_int64(std::string(part.substr(0, dash)));
    const std::optional<std::int64_t> last =
        dash == std::string_view::npos ? first : parse_int64(std::string(part.substr(dash + 1)));
    if (!first || !last || *first < 0 || *last < *first || *last > most) return {};
    for (std::int64_t cpu = *first; cpu <= *last; ++cpu) cpus.push_back(static_cast<int>(cpu));
  }
  std::sort(cpus.begin(), cpus.end());
  cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
  return cpus;
}

std::string no_code_text(const GpuInfo& gpu, const std::string& architectures) {
  return fmt::format(
      "device.kind: {} has compute capability {}.{}, for which this Lockstep holds no code (it was built for "
      "{}); build it "
      "with -DCMAKE_CUDA_ARCHITECTURES={}{}, or use --device cpu (docs/cuda.md)",
      gpu.name, gpu.capability_major, gpu.capability_minor, architectures, gpu.capability_major,
      gpu.capability_minor);
}

std::vector<int> cpus_near_pci(const std::string& bus_id, const std::string& sysfs) {
  std::string name = bus_id;
  // The driver writes "0000:3B:00.0", the kernel "0000:3b:00.0".
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  if (name.empty() || name.find('/') != std::string::npos) return {};
  try {
    return parse_cpu_list(read_file(sysfs + "/bus/pci/devices/" + name + "/local_cpulist"));
  } catch (const Error&) {
    return {};  // virtual machines often have no such file, and then every cpu is as near
  }
}

}  // namespace lockstep
