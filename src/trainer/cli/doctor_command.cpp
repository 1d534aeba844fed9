#include "trainer/cli/doctor_command.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fmt/format.h>
#include <functional>
#include <iostream>
#include <link.h>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "comm/mpi/mpi_communicator.h"
#include "comm/mpi/pair_probe.h"
#include "core/counted.h"
#include "core/digest.h"
#include "core/error.h"
#include "core/file.h"
#include "core/printable.h"
#include "core/text.h"
#include "device/cpu_info.h"
#include "device/lane_pool.h"
#include "model/plan/executor.h"
#include "trainer/cli/doctor_devices.h"
#include "trainer/cli/doctor_findings.h"
#include "trainer/config/paths.h"

namespace lockstep {
namespace {

constexpr int pairs_limit = 120;  // all pairs of 16 ranks
constexpr std::size_t long_message = std::size_t{4} << 20;

/// Variables that change bits or transports: every rank should have the same.
constexpr std::array told_variables = {"ONEDNN_MAX_CPU_ISA",
                                       "DNNL_MAX_CPU_ISA",
                                       "ONEDNN_DEFAULT_FPMATH_MODE",
                                       "LOCKSTEP_NO_SHARED_MEMORY",
                                       "OMPI_MCA_btl",
                                       "OMPI_MCA_pml",
                                       "LD_PRELOAD"};

/// The digest of a file, or why there is none: a library may have been replaced while it is in use.
std::string digest_or_reason(const std::string& path) {
  try {
    return sha256_hex(read_file(path));
  } catch (const Error& e) {
    return e.what();
  }
}

/// Paths of the shared libraries that decide results, as this process has loaded them.
std::vector<std::string> loaded_libraries() {
  std::vector<std::string> paths;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* list) {
        const std::string path = info->dlpi_name == nullptr ? "" : info->dlpi_name;
        // Plugins of MPI depend on the host's hardware; what is no file is the kernel's.
        if (path.starts_with('/') && path.find("/openmpi/") == std::string::npos)
          static_cast<std::vector<std::string>*>(list)->push_back(path);
        return 0;
      },
      &paths);
  return paths;
}

/// `devices`: there are some here besides the CPU, whose libraries (700 MB) decide nothing elsewhere.
bool decides_results(const std::string& name, bool devices) {
  const auto is = [&](const char* known) { return name.starts_with(known); };
  constexpr std::array always = {"libdnnl.", "libmpi.", "libm.", "libc.", "libgomp.", "libstdc++."};
  constexpr std::array of_devices = {"libcudart.", "libcudnn", "libcublas", "libnccl."};
  return std::any_of(always.begin(), always.end(), is) ||
         (devices && std::any_of(of_devices.begin(), of_devices.end(), is));
}

std::string config_file_of(const CommandLine& command) {
  const auto found = command.options.find("config");
  return found == command.options.end() ? "" : found->second;
}

/// The config of --config with the flags over it, or the defaults where there is none or it cannot be used,
/// which is a finding.
Config read_config(const CommandLine& command, std::vector<Finding>& findings) {
  if (const std::string file = config_file_of(command); !file.empty()) {
    try {
      ConfigValues values = read_config_file(file);
      for (const auto& [key, source] : command.overrides) values[key] = source;
      check_paths(values);
      return make_config(values);
    } catch (const Error& e) {
      findings.push_back({true, e.what()});
    }
  }
  Config config;
  if (const auto threads = command.overrides.find("device.threads"); threads != command.overrides.end())
    config.device.threads = static_cast<int>(parse_int64(threads->second.value).value_or(0));
  return config;
}

std::map<std::string, std::string> what_should_be_equal(const CommandLine& command, bool devices) {
  std::map<std::string, std::string> same;
  same["program"] = digest_or_reason("/proc/self/exe");
  same["version"] = LOCKSTEP_VERSION;
  same["library MPI"] = MpiEnvironment::library_version();
  same["library oneDNN"] = cpu_library_version();
  for (const std::string& path : loaded_libraries())
    if (const std::string name = std::filesystem::path(path).filename(); decides_results(name, devices))
      same["library file " + name] = digest_or_reason(path);
  const CpuInfo cpu = cpu_info();
  same["instruction set"] = cpu.isa;
  same["caches"] = fmt::format("{} / {} / {}", cpu.l1d_bytes, cpu.l2_bytes, cpu.l3_bytes);
  if (const std::string file = config_file_of(command); !file.empty())
    same["config"] = digest_or_reason(file);
  std::string environment;
  for (const char* name : told_variables)
    if (const char* value = std::getenv(name)) environment += fmt::format("{}={} ", name, value);
  same["environment"] = environment.empty() ? "none set" : environment.substr(0, environment.size() - 1);
  return same;
}

/// "what" of all hosts in one line: alone where all say the same.
std::string by_host(const World& world, const std::vector<std::string>& of_rank) {
  std::set<std::string> hosts, values(of_rank.begin(), of_rank.end());
  if (values.size() == 1) return of_rank[0];
  std::string text;
  for (std::size_t r = 0; r < of_rank.size(); ++r)
    if (hosts.insert(world.ranks[r].host).second)
      text += fmt::format("{}{} on {}", text.empty() ? "" : "; ", of_rank[r], world.ranks[r].host);
  return text;
}

/// (all) Whether every rank sees what the others of its group write.
std::vector<Finding> examine_windows(Job& job, std::string& line) {
  std::vector<Finding> findings;
  std::unique_ptr<Communicator> shared;
  shared = job.make_shared(std::size_t{1} << 20);
  const auto region = shared->allocate_shared(std::size_t{1} << 20);
  const Topology& t = shared->topology();
  const int first = t.group_begin[static_cast<std::size_t>(t.group())];
  const int end = t.group_begin[static_cast<std::size_t>(t.group()) + 1];
  *reinterpret_cast<volatile int*>(region->base(t.rank)) = t.rank + 1;
  shared->barrier();
  std::string unseen;
  for (int r = first; r < end && unseen.empty(); ++r)
    if (*reinterpret_cast<volatile int*>(region->base(r)) != r + 1)
      unseen = fmt::format(
          "rank {} cannot see what rank {} wrote into shared memory: its processes are in "
          "different containers; give them one /dev/shm (docker run --ipc=host)",
          t.rank, r);
  for (const std::string& text : shared->all_gather_text(unseen))
    if (!text.empty()) findings.push_back({true, text});
  line = fmt::format("shared windows: {}, {} group{} of ranks", findings.empty() ? "work" : "do not work",
                     t.groups(), t.groups() == 1 ? "" : "s");
  shared->barrier();
  return findings;
}

/// Values of all pairs as a table whose row and column are ranks.
std::string matrix(int ranks, const std::vector<PairProbe>& pairs,
                   const std::function<double(const PairProbe&)>& value, const char* format) {
  std::string text = fmt::format("{:>8}", "rank");
  for (int b = 1; b < ranks; ++b) text += fmt::format("{:>9}", b);
  for (int a = 0; a + 1 < ranks; ++a) {
    text += fmt::format("\n{:>8}", a);
    for (int b = 1; b < ranks; ++b) {
      const auto found =
          std::find_if(pairs.begin(), pairs.end(), [&](const PairProbe& p) { return p.a == a && p.b == b; });
      text +=
          found == pairs.end() ? fmt::format("{:>9}", "") : fmt::format(fmt::runtime(format), value(*found));
    }
  }
  return text;
}

std::string pairs_text(int ranks, const std::vector<PairProbe>& pairs) {
  const auto us = [](const PairProbe& p) { return p.latency * 1e6; };
  const auto mb = [](const PairProbe& p) { return p.bytes_per_second * 1e-6; };
  if (static_cast<std::size_t>(ranks) * static_cast<std::size_t>(ranks - 1) / 2 == pairs.size())
    return "latency of messages between ranks, microseconds:\n" + matrix(ranks, pairs, us, "{:>9.1f}") +
           "\nbandwidth of messages between ranks, MB a second:\n" + matrix(ranks, pairs, mb, "{:>9.0f}");
  std::string text = fmt::format("messages between ranks, a sample of {}:",
                                 counted(static_cast<std::int64_t>(pairs.size()), "pair"));
  for (const PairProbe& p : pairs)
    text +=
        fmt::format("\n  ranks {} and {}: {:.1f} microseconds, {:.0f} MB a second", p.a, p.b, us(p), mb(p));
  return text;
}

std::string clocks_text(const std::vector<ClockProbe>& clocks) {
  std::string text = "clocks against that of rank 0, microseconds:";
  for (std::size_t r = 1; r < clocks.size(); ++r)
    text += fmt::format("{} rank {} {:+.1f} +- {:.1f}", r == 1 ? "" : ",", r, clocks[r].offset * 1e6,
                        clocks[r].uncertainty * 1e6);
  return text;
}

std::string launcher_text(int ranks) {
  const auto launcher = launcher_identity(copied_environment());
  return fmt::format("rendezvous: {} rank{}, {}", ranks, ranks == 1 ? "" : "s",
                     launcher && launcher->size > 0 ? fmt::format("started by {}", launcher->launcher)
                                                    : "started without a launcher");
}

RankReport examine_rank(const CommandLine& command, const std::string& lane_warning) {
  RankReport mine;
  mine.shared_memory_free = free_shared_memory();
  mine.lane_warning = lane_warning;
  const CpuInfo cpu = cpu_info();
  const auto size = [](long bytes) { return human_bytes(static_cast<std::uint64_t>(bytes)); };
  mine.processor = fmt::format("{}, {}, caches {} / {} / {}", cpu.model, cpu.isa, size(cpu.l1d_bytes),
                               size(cpu.l2_bytes), size(cpu.l3_bytes));
  const DeviceHealth health = examine_devices();
  // After that, since it loads the libraries of devices.
  mine.same = what_should_be_equal(command, !health.lines.empty());
  mine.device_lines.push_back("devices: " + health.kinds);
  mine.device_lines.insert(mine.device_lines.end(), health.lines.begin(), health.lines.end());
  mine.device_findings = health.findings;
  return mine;
}

}  // namespace

int doctor_command(const CommandLine& command, Job& job) {
  Communicator& comm = job.comm;
  std::vector<Finding> findings;
  Config config;
  agree_on_error(comm, [&] { config = read_config(command, findings); });
  if (!job.leader()) findings.clear();  // where files differ that is found below
  const Lanes lanes = make_lanes(config, comm);
  const World world = report_once(comm, [&] { return gather_world(comm, describe_rank(lanes)); });
  const auto say = [&](const std::string& text) {
    if (!job.leader()) return;
    for (const std::string_view line : split(text, '\n')) std::cout << printable(line) << '\n';
  };
  RankReport mine;
  agree_on_error(comm, [&] { mine = examine_rank(command, lanes.warning); });
  std::vector<RankReport> reports;
  for (const std::string& text : comm.all_gather_text(to_wire(mine))) reports.push_back(report_from(text));

  say(launcher_text(comm.size()));
  say(world.table());
  std::vector<std::string> processors, memories;
  for (const RankReport& r : reports) {
    processors.push_back(r.processor);
    memories.push_back(human_bytes(r.shared_memory_free) + " free");
  }
  say("processor: " + by_host(world, processors));
  say("libraries: " + MpiEnvironment::library_version() + "; " + cpu_library_version());
  say("/dev/shm: " + by_host(world, memories));
  for (std::size_t r = 0; r < reports.size(); ++r)
    for (std::size_t i = 0; i < reports[r].device_lines.size(); ++i)
      if (r == 0 || i > 0)  // what can be computed on once, devices by rank
        say(i == 0 ? reports[r].device_lines[i]
                   : fmt::format("  rank {}: {}", r, reports[r].device_lines[i]));

  const auto take = [&](std::vector<Finding> found) {
    for (Finding& f : found) findings.push_back(std::move(f));
  };
  take(findings_on_equality(world, reports));
  take(findings_on_cpus(world, reports));
  take(findings_on_shared_memory(world, reports));
  for (const RankReport& r : reports) take(r.device_findings);
  std::string windows;
  take(examine_windows(job, windows));
  say(windows);
  if (comm.size() > 1) {
    const std::vector<ClockProbe> clocks = probe_clocks(comm);
    const std::vector<PairProbe> pairs =
        probe_pairs(comm, pairs_to_probe(comm.size(), pairs_limit), long_message);
    if (job.leader()) {
      say(pairs_text(comm.size(), pairs));
      say(clocks_text(clocks));
      take(findings_on_pairs(world, pairs));
      take(findings_on_clocks(world, clocks));
    }
  }
  std::stable_partition(findings.begin(), findings.end(), [](const Finding& f) { return f.wrong; });
  for (const Finding& f : findings) say((f.wrong ? "wrong: " : "doubtful: ") + f.text);
  if (findings.empty()) say("nothing doubtful was found");
  if (job.leader()) std::cout << std::flush;
  // Rank 0 has them all; the others leave with its verdict.
  const bool wrong = std::any_of(findings.begin(), findings.end(), [](const Finding& f) { return f.wrong; });
  const Verdict verdict = agree(comm, wrong ? static_cast<int>(ExitCode::input) : 0);
  return verdict.code;
}

}  // namespace lockstep
