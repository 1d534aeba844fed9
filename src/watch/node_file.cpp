#include "watch/node_file.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <dirent.h>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <new>
#include <random>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/digest.h"
#include "core/launcher.h"
#include "core/text.h"
#include "device/cpu_info.h"

namespace lockstep {
namespace {

constexpr std::size_t header_bytes = 4096;
constexpr int most_slots = 4096;

std::string text_of(const Environment& environment, const char* name) {
  const char* text = environment(name);
  return text == nullptr ? "" : text;
}

/// The number in a variable, or -1.
int number_of(const Environment& environment, const char* name) {
  const auto value = parse_int64(text_of(environment, name));
  return value && *value >= 0 && *value < 1000000 ? static_cast<int>(*value) : -1;
}

/// "2(x3),1": tasks of node `node`, counted from 0, or -1. (sbatch(1), SLURM_TASKS_PER_NODE.)
int tasks_of_node(const std::string& list, int node) {
  for (const std::string_view part : split(list, ',')) {
    const std::size_t bracket = part.find('(');
    const auto tasks = parse_int64(part.substr(0, bracket));
    std::int64_t times = 1;
    if (bracket != std::string_view::npos) {
      std::string_view repeat = part.substr(bracket + 1);
      if (!repeat.starts_with('x') || !repeat.ends_with(')')) return -1;
      times = parse_int64(repeat.substr(1, repeat.size() - 2)).value_or(-1);
    }
    if (!tasks || *tasks < 1 || *tasks > most_slots || times < 1) return -1;
    if (node < times) return static_cast<int>(*tasks);
    node -= static_cast<int>(times);
  }
  return -1;
}

std::string name_space(const char* kind) {
  char text[64] = "";
  const ssize_t n = ::readlink((std::string("/proc/self/ns/") + kind).c_str(), text, sizeof text - 1);
  return n > 0 ? std::string(text, static_cast<std::size_t>(n)) : "";
}

std::string prefix() {
  return fmt::format("lockstep-watch-{}-", getuid());
}

/// Removes what killed jobs have left: files of this user that nobody has locked.
void remove_stale(const std::string& directory) {
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator(directory, failed)) {
    const std::string path = entry.path().string();
    if (!entry.path().filename().string().starts_with(prefix())) continue;
    const FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
    if (fd && ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) ::unlink(path.c_str());
  }
}

}  // namespace

NodePlace node_place(const Environment& environment) {
  const std::optional<LauncherIdentity> launcher = launcher_identity(environment);
  if (!launcher) return {};
  NodePlace place;
  int local_rank = -1, local_size = -1;
  const auto marks = [&](std::initializer_list<const char*> names) {
    std::vector<std::string> lines;
    for (const char* name : names)
      if (const char* value = environment(name)) lines.push_back(fmt::format("{}={}", name, value));
    return lines;
  };
  if (launcher->launcher == "mpirun") {
    local_rank = number_of(environment, "OMPI_COMM_WORLD_LOCAL_RANK");
    local_size = number_of(environment, "OMPI_COMM_WORLD_LOCAL_SIZE");
    place.job = text_of(environment, "PMIX_NAMESPACE");
    if (place.job.empty()) place.job = text_of(environment, "OMPI_MCA_ess_base_jobid");
    // One machine may be several nodes to a scheduler; each has a daemon of its own.
    if (!place.job.empty()) place.job += " " + text_of(environment, "OMPI_MCA_orte_local_daemon_uri");
    place.marks = marks({"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_local_daemon_uri"});
    place.local_rank_variable = "OMPI_COMM_WORLD_LOCAL_RANK";
    place.rank_variable = "OMPI_COMM_WORLD_RANK";
  } else if (launcher->launcher == "srun") {
    local_rank = number_of(environment, "SLURM_LOCALID");
    const int node = number_of(environment, "SLURM_NODEID");
    if (node >= 0) local_size = tasks_of_node(text_of(environment, "SLURM_STEP_TASKS_PER_NODE"), node);
    const std::string job = text_of(environment, "SLURM_JOB_ID");
    const std::string step = text_of(environment, "SLURM_STEP_ID");
    if (!job.empty() && !step.empty())
      place.job = fmt::format("slurm {}.{}.{} {}", job, step, text_of(environment, "SLURM_RESTART_COUNT"),
                              text_of(environment, "SLURMD_NODENAME"));
    place.marks = marks({"SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_NODEID", "SLURM_STEP_NUM_TASKS"});
    place.local_rank_variable = "SLURM_LOCALID";
    place.rank_variable = "SLURM_PROCID";
    if (const std::string ids = text_of(environment, "SLURM_GTIDS"); !ids.empty())
      for (const std::string_view id : split(ids, ','))
        place.ranks.push_back(static_cast<int>(parse_int64(id).value_or(-1)));
  } else {
    local_rank = number_of(environment, "MPI_LOCALRANKID");
    local_size = number_of(environment, "MPI_LOCALNRANKS");
    if (local_rank >= 0) place.job = fmt::format("{} {}", launcher->launcher, getppid());
    place.local_rank_variable = "MPI_LOCALRANKID";
    place.rank_variable = "PMI_RANK";
  }
  if (place.job.empty() || local_rank < 0 || local_size > most_slots || local_rank >= local_size) return {};
  place.local_rank = local_rank;
  place.local_size = local_size;
  if (place.ranks.empty() && launcher->size == local_size) {
    for (int r = 0; r < local_size; ++r) place.ranks.push_back(r);
  }
  if (place.ranks.size() != static_cast<std::size_t>(local_size)) place.ranks.clear();
  return place;
}

std::string NodeFile::name_of(const NodePlace& place) {
  // Processes that do not see each other's pids cannot judge each other.
  const std::string what =
      fmt::format("{} {} {} {}", host_name(), place.job, name_space("pid"), place.local_size);
  return prefix() + sha256_hex(what).substr(0, 24);
}

NodeFile::NodeFile(const NodePlace& place) {
  if (!place.job.empty()) {
    const std::string name = name_of(place);
    std::error_code failed;
    for (const std::string& directory :
         {std::string("/dev/shm"), std::filesystem::temp_directory_path(failed).string()}) {
      if (!directory.empty() && open(directory, name, place)) return;
    }
  }
  take_private();
}

bool NodeFile::open(const std::string& directory, const std::string& name, const NodePlace& place) {
  const std::string path = directory + "/" + name;
  const std::size_t bytes = header_bytes + static_cast<std::size_t>(place.local_size) * sizeof(FlightSlot);
  for (int attempt = 0; attempt < 100; ++attempt) {
    FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    struct stat there {};
    if (!fd || ::fstat(fd.get(), &there) != 0 || there.st_uid != getuid()) return false;
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) {
      // New, or left by a job that was killed: nobody looks at it.
      if (::ftruncate(fd.get(), 0) != 0 || ::posix_fallocate(fd.get(), 0, static_cast<off_t>(bytes)) != 0) {
        ::unlink(path.c_str());
        return false;
      }
      std::random_device random;
      const std::uint64_t id = (std::uint64_t{random()} << 32 | random()) | 1;
      if (::pwrite(fd.get(), &id, sizeof id, 0) != sizeof id) return false;
      remove_stale(directory);
    }
    // Between the two locks another process may make the file anew; that does no harm while no slot is taken.
    if (::flock(fd.get(), LOCK_SH) != 0) return false;
    struct stat linked {};
    if (::fstat(fd.get(), &there) != 0 || ::stat(path.c_str(), &linked) != 0 ||
        there.st_ino != linked.st_ino || there.st_dev != linked.st_dev)
      continue;  // meanwhile another process has removed it as stale
    if (static_cast<std::size_t>(there.st_size) != bytes) continue;
    void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (memory == MAP_FAILED) return false;
    map(memory, place.local_size);
    bytes_ = bytes;
    const FlightSlot& own = slot(place.local_rank);
    const long pid = own.pid.load();
    if (own.state.load() != RankState::absent && pid != getpid()) {
      const ProcessState state = process_state(pid);
      if (!state.gone() && state.start_time == own.start_time.load()) {
        // Two processes with one local rank: the launcher's variables were inherited by one that they do not
        // mean.
        ::munmap(memory, bytes);
        memory_ = nullptr;
        take_private();
        return true;
      }
    }
    fd_ = std::move(fd);
    path_ = path;
    take_slot(place.local_rank);
    return true;
  }
  return false;
}

void NodeFile::take_private() {
  bytes_ = header_bytes + sizeof(FlightSlot);
  void* memory = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  map(memory, 1);
  std::random_device random;
  header_->id = (std::uint64_t{random()} << 32 | random()) | 1;
  take_slot(0);
}

void NodeFile::map(void* memory, int slots) {
  static_assert(alignof(FlightSlot) <= header_bytes && sizeof(Header) <= header_bytes);
  memory_ = memory;
  slots_ = slots;
  // Zeros are a valid header and valid slots: a slot is written before its state says that it is taken.
  header_ = std::launder(static_cast<Header*>(memory));
  slots_begin_ = std::launder(reinterpret_cast<FlightSlot*>(static_cast<std::byte*>(memory) + header_bytes));
}

void NodeFile::take_slot(int i) {
  own_ = i;
  FlightSlot* mine = new (&slot(i)) FlightSlot;
  mine->pid = getpid();
  mine->start_time = process_state(getpid()).start_time;
  mine->state.store(RankState::running, std::memory_order_release);
}

NodeFile::~NodeFile() {
  if (memory_ != nullptr) {
    mine().state.store(RankState::left, std::memory_order_release);
    ::munmap(memory_, bytes_);
  }
  // The last process to leave removes the file. None can still be about to open it: MPI_Finalize has waited
  // for all.
  if (fd_ && ::flock(fd_.get(), LOCK_EX | LOCK_NB) == 0) remove();
}

void NodeFile::remove() noexcept {
  if (!path_.empty()) ::unlink(path_.c_str());
}

std::vector<std::string> stat_fields(const std::string& path) {
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char text[1024];
  const ssize_t n = fd ? ::read(fd.get(), text, sizeof text) : -1;
  if (n <= 0) return {};
  // The name in brackets may hold anything, brackets too. Fields are counted from its end.
  const std::string_view all(text, static_cast<std::size_t>(n));
  const std::size_t end = all.rfind(')');
  if (end == std::string_view::npos || end + 2 >= all.size()) return {};
  const std::vector<std::string_view> fields = split(all.substr(end + 2), ' ');
  return {fields.begin(), fields.end()};
}

ProcessState process_state(long pid) {
  if (pid <= 0) return {};
  const std::vector<std::string> fields = stat_fields(fmt::format("/proc/{}/stat", pid));
  constexpr std::size_t start_time = 22 - 3;
  if (fields.size() <= start_time) return {};
  return {fields[0][0], static_cast<std::uint64_t>(parse_int64(fields[start_time]).value_or(0))};
}

std::vector<FoundProcess> processes_with(const std::vector<std::string>& lines) {
  const auto slurp = [](const std::string& path) {
    std::string text;
    const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    char buffer[8192];
    for (ssize_t n = 0; fd && text.size() < (1u << 20) && (n = ::read(fd.get(), buffer, sizeof buffer)) > 0;)
      text.append(buffer, static_cast<std::size_t>(n));
    return text;
  };
  std::vector<FoundProcess> found;
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", failed)) {
    const auto pid = parse_int64(entry.path().filename().string());
    if (!pid || *pid == getpid()) continue;
    FoundProcess process;
    process.pid = static_cast<long>(*pid);
    process.environment = '\0' + slurp(entry.path().string() + "/environ");
    const bool all = std::all_of(lines.begin(), lines.end(), [&](const std::string& line) {
      return process.environment.find('\0' + line + '\0') != std::string::npos;
    });
    if (!all) continue;
    process.start_time = process_state(process.pid).start_time;
    process.command = slurp(entry.path().string() + "/cmdline");
    while (!process.command.empty() && process.command.back() == '\0') process.command.pop_back();
    for (char& c : process.command)
      if (static_cast<unsigned char>(c) < ' ') c = ' ';
    if (process.command.size() > 80) process.command = process.command.substr(0, 77) + "...";
    found.push_back(std::move(process));
  }
  std::sort(found.begin(), found.end(), [](const FoundProcess& a, const FoundProcess& b) {
    return std::pair(a.start_time, a.pid) < std::pair(b.start_time, b.pid);
  });
  return found;
}

}  // namespace lockstep
