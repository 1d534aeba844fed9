#include "trainer/cli/doctor_findings.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>

#include "core/counted.h"
#include "core/error.h"
#include "core/text.h"
#include "core/wire.h"

namespace lockstep {
namespace {

/// Ranks by host, hosts in the order of their first rank.
std::vector<std::pair<std::string, std::vector<std::size_t>>> ranks_by_host(const World& world) {
  std::vector<std::pair<std::string, std::vector<std::size_t>>> hosts;
  for (std::size_t r = 0; r < world.ranks.size(); ++r) {
    const auto found = std::find_if(hosts.begin(), hosts.end(),
                                    [&](const auto& h) { return h.first == world.ranks[r].host; });
    if (found == hosts.end())
      hosts.push_back({world.ranks[r].host, {r}});
    else
      found->second.push_back(r);
  }
  return hosts;
}

std::string ranks_on_hosts(const World& world, const std::vector<std::size_t>& ranks) {
  std::vector<std::string> hosts;
  for (const std::size_t r : ranks)
    if (std::find(hosts.begin(), hosts.end(), world.ranks[r].host) == hosts.end())
      hosts.push_back(world.ranks[r].host);
  std::string names;
  for (std::size_t i = 0; i < std::min<std::size_t>(hosts.size(), 4); ++i)
    names += (i == 0 ? "" : ", ") + hosts[i];
  if (hosts.size() > 4) names += ", …";
  return fmt::format("rank{} {} on {}", ranks.size() == 1 ? "" : "s", ranks_text(ranks), names);
}

/// Hashes are told by their first digits.
std::string shortened(const std::string& value) {
  const bool hash = value.size() == 64 && value.find_first_not_of("0123456789abcdef") == std::string::npos;
  return hash ? value.substr(0, 12) + "…" : value;
}

std::string advice_on(const std::string& key) {
  if (key == "config") return "give all ranks one file";
  if (key == "program" || key == "version") return "install one build of Lockstep on all hosts";
  if (key.starts_with("library ")) return "install the same version of it on all hosts";
  if (key == "environment") return "give all ranks the same variables (mpirun -x NAME)";
  return "use hosts of one kind, or accept results that depend on the placement with --allow-numeric-change";
}

}  // namespace

std::string ranks_text(const std::vector<std::size_t>& ranks) {
  const std::vector<int> numbers(ranks.begin(), ranks.end());
  return number_list_text(numbers);
}

std::string to_wire(const RankReport& report) {
  WireWriter out;
  out.begin_list(report.same.size());
  for (const auto& [key, value] : report.same) out.add(key).add(value);
  out.add(report.shared_memory_free).add(report.lane_warning).add(report.processor).add(report.device_lines);
  out.begin_list(report.device_findings.size());
  for (const Finding& f : report.device_findings) out.add(f.wrong).add(f.text);
  return out.text();
}

RankReport report_from(const std::string& text) {
  WireReader in(text);
  RankReport report;
  for (std::size_t left = in.get_list(); left > 0; --left) {
    const auto key = in.get<std::string>();
    report.same[key] = in.get<std::string>();
  }
  report.shared_memory_free = in.get<std::uint64_t>();
  report.lane_warning = in.get<std::string>();
  report.processor = in.get<std::string>();
  report.device_lines = in.get<std::vector<std::string>>();
  report.device_findings.resize(in.get_list());
  for (Finding& f : report.device_findings) {
    f.wrong = in.get<bool>();
    f.text = in.get<std::string>();
  }
  in.finish();
  return report;
}

std::vector<Finding> findings_on_equality(const World& world, const std::vector<RankReport>& reports) {
  std::map<std::string, std::map<std::string, std::vector<std::size_t>>> ranks_of;  // key, value
  for (const RankReport& report : reports)
    for (const auto& [key, value] : report.same) ranks_of[key];
  for (auto& [key, values] : ranks_of)
    for (std::size_t r = 0; r < reports.size(); ++r) {
      const auto found = reports[r].same.find(key);
      values[found == reports[r].same.end() ? "none" : found->second].push_back(r);
    }
  std::vector<Finding> findings;
  for (const auto& [key, values] : ranks_of) {
    if (values.size() < 2) continue;
    // The largest group first, and of equal ones that of the lowest rank: the odd ones out stand behind it.
    std::vector<std::pair<std::string, std::vector<std::size_t>>> groups(values.begin(), values.end());
    std::sort(groups.begin(), groups.end(), [](const auto& a, const auto& b) {
      return a.second.size() != b.second.size() ? a.second.size() > b.second.size() : a.second < b.second;
    });
    std::string text = fmt::format("the ranks differ in {}: ", key);
    for (std::size_t i = 0; i < std::min<std::size_t>(groups.size(), 4); ++i)
      text += fmt::format("{}{}: {}", i == 0 ? "" : "; ", ranks_on_hosts(world, groups[i].second),
                          shortened(groups[i].first));
    if (groups.size() > 4) text += fmt::format("; and {} more", groups.size() - 4);
    findings.push_back({key != "environment", text + "; " + advice_on(key)});
  }
  return findings;
}

std::vector<Finding> findings_on_cpus(const World& world, const std::vector<RankReport>& reports) {
  std::vector<Finding> findings;
  for (const auto& [host, ranks] : ranks_by_host(world)) {
    std::map<int, std::vector<std::size_t>> bound;
    for (const std::size_t r : ranks)
      if (world.ranks[r].cpus.size() == 1) bound[world.ranks[r].cpus[0]].push_back(r);
    for (const auto& [cpu, sharing] : bound)
      if (sharing.size() > 1)
        findings.push_back({false, fmt::format("ranks {} on {} are all bound to cpu {}: start mpirun with "
                                               "--bind-to none, or bind each to its own",
                                               ranks_text(sharing), host, cpu)});
    for (const std::size_t r : ranks) {
      if (reports[r].lane_warning.empty()) continue;
      findings.push_back({false, reports[r].lane_warning});
      break;  // one of a host: the others say the same of their neighbours
    }
  }
  return findings;
}

std::vector<Finding> findings_on_shared_memory(const World& world, const std::vector<RankReport>& reports) {
  std::vector<Finding> findings;
  for (const auto& [host, ranks] : ranks_by_host(world)) {
    if (ranks.size() < 2) continue;  // one rank alone shares no memory
    const std::uint64_t free = reports[ranks[0]].shared_memory_free;
    if (free / ranks.size() >= shared_memory_bound) continue;
    findings.push_back(
        {false,
         fmt::format(
             "/dev/shm on {} has {} free for {}: a model of more than about {} parameters would "
             "be exchanged by messages, which is slower; give it more space (docker run --shm-size, or "
             "mount -o remount,size=)",
             host, human_bytes(free), counted(static_cast<std::int64_t>(ranks.size()), "rank"),
             // At least one gradient and the parameters of each rank lie there, 4 bytes each.
             free / ranks.size() / 8)});
  }
  return findings;
}

std::vector<Finding> findings_on_clocks(const World& world, const std::vector<ClockProbe>& clocks) {
  std::vector<Finding> findings;
  std::vector<std::string> told;
  for (std::size_t r = 1; r < clocks.size(); ++r) {
    const std::string& host = world.ranks[r].host;
    if (std::abs(clocks[r].offset) - clocks[r].uncertainty <= clock_bound) continue;
    if (std::find(told.begin(), told.end(), host) != told.end()) continue;
    told.push_back(host);
    findings.push_back(
        {false,
         fmt::format("the clock of rank {} on {} is {:.3f} s {} that of rank 0 on {} (+- {:.3f} s): logs "
                     "and file times of the hosts cannot be compared; let ntpd or chrony set them",
                     r, host, std::abs(clocks[r].offset), clocks[r].offset > 0 ? "ahead of" : "behind",
                     world.ranks[0].host, clocks[r].uncertainty)});
  }
  return findings;
}

std::vector<Finding> findings_on_pairs(const World& world, const std::vector<PairProbe>& pairs) {
  // Far outside of what noise on a busy host does.
  constexpr double far_slower = 10;
  std::vector<Finding> findings;
  for (const bool one_host : {true, false}) {
    std::vector<double> speeds;
    const auto of_kind = [&](const PairProbe& p) {
      return (world.ranks[static_cast<std::size_t>(p.a)].host ==
              world.ranks[static_cast<std::size_t>(p.b)].host) == one_host;
    };
    for (const PairProbe& p : pairs)
      if (of_kind(p)) speeds.push_back(p.bytes_per_second);
    if (speeds.size() < 3) continue;
    std::sort(speeds.begin(), speeds.end());
    const double typical = speeds[speeds.size() / 2];
    for (const PairProbe& p : pairs) {
      if (!of_kind(p) || p.bytes_per_second * far_slower >= typical) continue;
      findings.push_back(
          {false, fmt::format("rank {} on {} and rank {} on {} exchange {} a second where the median of such "
                              "pairs is {}: look at their link, or for other processes there",
                              p.a, world.ranks[static_cast<std::size_t>(p.a)].host, p.b,
                              world.ranks[static_cast<std::size_t>(p.b)].host,
                              human_bytes(static_cast<std::uint64_t>(p.bytes_per_second)),
                              human_bytes(static_cast<std::uint64_t>(typical)))});
    }
  }
  return findings;
}

}  // namespace lockstep
