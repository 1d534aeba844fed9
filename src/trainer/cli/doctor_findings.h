#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "comm/mpi/pair_probe.h"
#include "comm/world.h"

namespace lockstep {

/// What `lockstep doctor` has found: a sentence that says what is wrong, where, and how to mend it.
struct Finding {
  bool wrong = false;  ///< a run would be refused or come out wrong; else it would be slow or hard to read
  std::string text;
};

/// What a rank says of itself beyond its RankDescription. Everything in `same` should be the same on all
/// ranks; it is compared by key.
struct RankReport {
  std::map<std::string, std::string> same;
  std::uint64_t shared_memory_free = 0;   ///< bytes of /dev/shm
  std::string lane_warning;               ///< of its LanePlan
  std::string processor;                  ///< for people
  std::vector<std::string> device_lines;  ///< of the devices that it uses, for people
  std::vector<Finding> device_findings;
};
/// For the other ranks (core/wire.h), and back.
std::string to_wire(const RankReport& report);
RankReport report_from(const std::string& text);

// Each looks at one thing on all ranks; `world` and `reports` by rank.

/// Keys of RankReport::same whose values differ: which ranks have what.
std::vector<Finding> findings_on_equality(const World& world, const std::vector<RankReport>& reports);
/// Two ranks of a host bound to one and the same single cpu, and lanes that are more than cpus.
std::vector<Finding> findings_on_cpus(const World& world, const std::vector<RankReport>& reports);
/// Hosts with several ranks whose /dev/shm is too small for a model of some size.
std::vector<Finding> findings_on_shared_memory(const World& world, const std::vector<RankReport>& reports);
/// Clocks that are surely more than `clock_bound` seconds from that of rank 0.
std::vector<Finding> findings_on_clocks(const World& world, const std::vector<ClockProbe>& clocks);
/// Pairs that are far slower than the others of their kind (on one host, or between hosts).
std::vector<Finding> findings_on_pairs(const World& world, const std::vector<PairProbe>& pairs);

inline constexpr double clock_bound = 0.1;
/// Below so many bytes of shared memory a rank is told: Docker gives all ranks together 64 MiB unless asked.
inline constexpr std::uint64_t shared_memory_bound = std::uint64_t{64} << 20;

/// "0-2,5": ranks for people.
std::string ranks_text(const std::vector<std::size_t>& ranks);

}  // namespace lockstep
