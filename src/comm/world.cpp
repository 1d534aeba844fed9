#include "comm/world.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fmt/format.h>
#include <map>
#include <sstream>
#include <unistd.h>
#include <utility>

#include "comm/rendezvous.h"
#include "core/error.h"
#include "core/printable.h"
#include "core/text.h"
#include "core/wire.h"
#include "device/cpu_info.h"

namespace lockstep {
namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string to_wire(const RankDescription& d) {
  return WireWriter()
      .add(d.host)
      .add(std::int64_t{d.pid})
      .add(d.device)
      .add(d.exclusive_device)
      .add(d.lanes)
      .add(d.cpus)
      .text();
}

RankDescription description_from(const std::string& text) {
  WireReader in(text);
  RankDescription d;
  d.host = in.get<std::string>();
  d.pid = in.get<long>();
  d.device = in.get<std::string>();
  d.exclusive_device = in.get<std::string>();
  d.lanes = in.get<int>();
  d.cpus = in.get<std::vector<int>>();
  in.finish();
  return d;
}

bool meet(const std::vector<int>& a, const std::vector<int>& b) {
  return std::any_of(a.begin(), a.end(),
                     [&](int cpu) { return std::binary_search(b.begin(), b.end(), cpu); });
}

/// The ranks of `rank`'s host whose masks meet its own, itself included.
std::vector<std::size_t> sharers_of(std::span<const RankCpus> ranks, std::size_t rank) {
  std::vector<std::size_t> sharers;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    if (r == rank || (ranks[r].host == ranks[rank].host && meet(ranks[r].cpus, ranks[rank].cpus)))
      sharers.push_back(r);
  }
  return sharers;
}

int lanes_of(std::span<const RankCpus> ranks, std::size_t rank) {
  if (ranks[rank].lanes > 0) return ranks[rank].lanes;
  return std::max(1, static_cast<int>(ranks[rank].cpus.size() / sharers_of(ranks, rank).size()));
}

}  // namespace

namespace {

/// "unset PMIX_RANK to train on one rank", or the command that leaves several out. `first` is among them.
std::string way_without(const std::string& first, const Environment& environment) {
  std::string command = "env -u " + first;
  bool several = false;
  for (const std::string& name : launcher_variables(environment)) {
    if (name == first) continue;
    command += " -u " + name;
    several = true;
  }
  if (!several) return fmt::format("unset {} to train on one rank", first);
  return fmt::format("to train on one rank start it without all of them: {} lockstep ...", command);
}

std::string refusal_without_server(const LauncherIdentity& launcher, const Environment& environment) {
  const char* value = environment(launcher.variable.c_str());
  return fmt::format(
      "the environment says that this is rank {} of a job of {} ({} is {}), but the server by which its "
      "ranks would find each other is not there: the variables are left over from another job, or were set "
      "by hand; start it with mpirun or srun --mpi=pmix, or {}",
      launcher.rank, launcher.launcher, launcher.variable, value == nullptr ? "" : value,
      way_without(launcher.variable, environment));
}

}  // namespace

void refuse_doubtful_launch(int world_size, const Environment& environment) {
  const std::optional<LauncherIdentity> launcher = launcher_identity(environment);
  if (!launcher && world_size == 0) {
    if (const std::string dead = dead_address(environment); !dead.empty())
      throw ConfigError(fmt::format(
          "{} names an mpirun that is not there: it is left over from another job, or was set by hand; start "
          "the program with mpirun, or {}",
          dead, way_without(dead, environment)));
  }
  if (!launcher) return;
  if (const std::string mark = used_rank_mark(environment);
      world_size == 0 && !mark.empty() && ::access(mark.c_str(), F_OK) == 0)
    throw ConfigError(
        fmt::format("a program before this one has used rank {} of this mpirun, and mpirun lets one a rank "
                    "call MPI: give "
                    "each command of the script an mpirun of its own, or start the script without mpirun",
                    launcher->rank));
  if (world_size > 1) return;
  const bool several = launcher->size > 1 || launcher->rank > 0;
  if (world_size == 0 && launcher->speaks_mpi) {
    if (rendezvous_answers(environment)) return;
    if (launcher->launcher != "srun" || !several)
      throw ConfigError(refusal_without_server(*launcher, environment));
  }
  if (!several) return;
  const std::string tasks = launcher->size > 0 ? fmt::format("{} tasks", launcher->size) : "several tasks";
  if (launcher->launcher == "srun") {
    throw ConfigError(fmt::format(
        "srun started {} ({}), but for MPI each of them is alone and would train for itself: {}, or start "
        "one "
        "task",
        tasks, launcher->variable,
        launcher->speaks_mpi ? "start them with srun --mpi=pmix, or with mpirun inside the allocation"
                             : "srun was not told to set up MPI, so start them with srun --mpi=pmix"));
  }
  throw ConfigError(
      fmt::format("{} announces {}, but for MPI each of them is alone and would train for itself: start them "
                  "with the mpirun "
                  "of the MPI that Lockstep was built with",
                  launcher->launcher, tasks));
}

void start_without_daemon(const Environment& environment) {
  const std::optional<LauncherIdentity> launcher = launcher_identity(environment);
  if (launcher && launcher->speaks_mpi) return;
  constexpr std::array<std::array<const char*, 2>, 3> settings = {{
      {"OMPI_MCA_ess_singleton_isolated", "1"},
      // A folder in TMPDIR for what ranks and the daemon share.
      {"OMPI_MCA_orte_create_session_dirs", "0"},
      // Where there is no network it is complained of.
      {"OMPI_MCA_if", "^posix_ipv4"},
  }};
  for (const auto& [name, value] : settings) ::setenv(name, value, 0);
}

std::string World::table() const {
  TextTable table({"rank", "host", "pid", "device", "lanes", "cpus"}, 200);
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    const RankDescription& d = ranks[r];
    table.add({std::to_string(r), d.host, std::to_string(d.pid), d.device, std::to_string(d.lanes),
               number_list_text(d.cpus)});
  }
  std::string text = table.text();
  text.pop_back();  // the last newline
  return text;
}

World gather_world(Communicator& comm, const RankDescription& mine) {
  World world{comm.topology(), {}};
  for (const std::string& text : comm.all_gather_text(to_wire(mine)))
    world.ranks.push_back(description_from(text));
  std::map<std::pair<std::string, std::string>, std::size_t> taken;
  for (std::size_t r = 0; r < world.ranks.size(); ++r) {
    const RankDescription& d = world.ranks[r];
    if (d.exclusive_device.empty()) continue;
    const auto place = taken.try_emplace({d.host, d.exclusive_device}, r);
    if (place.second) continue;
    const std::size_t other = place.first->second;
    report_once(comm, [&] {
      throw ConfigError(fmt::format(
          "ranks {} and {} on {} share one device, {} ({}): start at most one rank per device, or "
          "show each rank another one",
          other, r, d.host, d.device, d.exclusive_device));
    });
  }
  return world;
}

std::string check_equal_fingerprints(Communicator& comm, const std::string& fingerprint, bool allow) {
  const std::vector<std::string> all = comm.all_gather_text(fingerprint);
  const std::vector<std::string> hosts = comm.all_gather_text(host_name());
  const auto other = std::find_if(all.begin(), all.end(), [&](const std::string& f) { return f != all[0]; });
  if (other == all.end()) return {};
  const std::vector<std::string> ours = lines_of(all[0]);
  const std::vector<std::string> theirs = lines_of(*other);
  std::size_t line = 0;
  while (line < ours.size() && line < theirs.size() && ours[line] == theirs[line]) ++line;
  const auto shown = [&](const std::vector<std::string>& lines) {
    return line < lines.size() ? lines[line] : std::string("(nothing)");
  };
  const auto rank = static_cast<std::size_t>(other - all.begin());
  const std::string what = fmt::format(
      "rank {} on {} computes with other numerics than rank 0 on {}: line {} of its fingerprint is \"{}\" "
      "instead of \"{}\"",
      rank, hosts[rank], hosts[0], line + 1, shown(theirs), shown(ours));
  if (allow) return what + ", so the result depends on the placement";
  return report_once(comm, [&]() -> std::string {
    throw ConfigError(what +
                      "; use machines and builds of one kind, or accept it with --allow-numeric-change");
  });
}

LanePlan plan_lanes(std::span<const RankCpus> ranks, int rank) {
  const auto me = static_cast<std::size_t>(rank);
  require(me < ranks.size(), "plan_lanes: no such rank");
  const RankCpus& mine = ranks[me];
  LanePlan plan;
  plan.lanes = lanes_of(ranks, me);
  int all_lanes = 0;
  int lanes_before = 0;
  bool one_mask = true;
  std::vector<int> cpus;
  const std::vector<std::size_t> sharers = sharers_of(ranks, me);
  for (const std::size_t r : sharers) {
    if (r == me) lanes_before = all_lanes;
    all_lanes += lanes_of(ranks, r);
    one_mask = one_mask && ranks[r].cpus == mine.cpus;
    cpus.insert(cpus.end(), ranks[r].cpus.begin(), ranks[r].cpus.end());
  }
  std::sort(cpus.begin(), cpus.end());
  cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
  if (plan.lanes > static_cast<int>(mine.cpus.size())) {
    plan.warning = fmt::format(
        "rank {} on {} has {} lanes but may use {} cpu{} ({}): set device.threads lower, or start it with "
        "mpirun "
        "--bind-to none",
        rank, mine.host, plan.lanes, mine.cpus.size(), mine.cpus.size() == 1 ? "" : "s",
        number_list_text(mine.cpus));
  } else if (all_lanes > static_cast<int>(cpus.size())) {
    plan.warning = fmt::format(
        "{} ranks on {} have {} lanes together but may use {} cpu{} ({}): they will slow each other down",
        sharers.size(), mine.host, all_lanes, cpus.size(), cpus.size() == 1 ? "" : "s",
        number_list_text(cpus));
  } else if (one_mask) {
    const auto first = mine.cpus.begin() + lanes_before;
    plan.cpus.assign(first, first + plan.lanes);
  }
  return plan;
}

LanePlan lanes_for_rank(Communicator& comm, int lanes) {
  RankDescription mine;
  mine.host = host_name();
  mine.lanes = lanes;
  mine.cpus = allowed_cpus();
  std::vector<RankCpus> ranks;
  for (const std::string& text : comm.all_gather_text(to_wire(mine))) {
    const RankDescription d = description_from(text);
    ranks.push_back({d.host, d.cpus, d.lanes});
  }
  return plan_lanes(ranks, comm.rank());
}

}  // namespace lockstep
