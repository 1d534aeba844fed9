#include "trainer/run/lease_file.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <string_view>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "core/printable.h"
#include "core/text.h"
#include "device/cpu_info.h"
#include "watch/node_file.h"

namespace lockstep {
namespace {

constexpr double least_period = 0.05, most_period = 10;
constexpr std::size_t most_bytes = 8192;
constexpr std::size_t number_width = 12;
constexpr long most_pid = 4'194'304;  // of Linux on 64 bits, proc(5)

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string first_line(const char* path) {
  const FileDescriptor fd(::open(path, O_RDONLY | O_CLOEXEC));
  char text[128];
  const ssize_t n = fd ? ::read(fd.get(), text, sizeof text) : -1;
  return n <= 0 ? "" : std::string(trim(std::string_view(text, static_cast<std::size_t>(n))));
}

std::string pid_namespace() {
  char text[64];
  const ssize_t n = ::readlink("/proc/self/ns/pid", text, sizeof text);
  return n <= 0 ? "" : std::string(text, static_cast<std::size_t>(n));
}

double period() {
  const std::string text = variable(lease_period_variable);
  if (text.empty()) return default_lease_period;
  const auto value = parse_double(text);
  if (!value || *value < least_period || *value > most_period)
    throw ConfigError(fmt::format("{}: \"{}\" is not a number of seconds from {} to {}",
                                  lease_period_variable, printable(text), least_period, most_period));
  return *value;
}

std::string slurm_job() {
  const std::string job = variable("SLURM_JOB_ID");
  return job.empty() ? "" : variable("SLURM_CLUSTER_NAME") + "/" + job;
}

/// A number in its place: blanks before it are no part of JSON's value.
void put_number(char* at, unsigned long long value) {
  for (std::size_t i = number_width; i-- > 0; value /= 10)
    at[i] = value == 0 && i + 1 < number_width ? ' ' : static_cast<char>('0' + value % 10);
}

constexpr const char* second_name = ",\"renewals\":";

}  // namespace

LeaseHolder LeaseHolder::self() {
  LeaseHolder mine;
  mine.host = host_name();
  mine.pid = ::getpid();
  mine.start_time = process_state(mine.pid).start_time;
  mine.boot_id = first_line("/proc/sys/kernel/random/boot_id");
  mine.pid_namespace = lockstep::pid_namespace();
  mine.run_id = variable("LOCKSTEP_RUN_ID");
  mine.slurm_job = lockstep::slurm_job();
  mine.period = lockstep::period();
  return mine;
}

bool LeaseHolder::is_start_of_same_job(const LeaseHolder& other) const {
  return (!run_id.empty() && run_id == other.run_id) || (!slurm_job.empty() && slurm_job == other.slurm_job);
}

bool LeaseHolder::is_gone() const {
  if (host != host_name()) return false;
  const std::string boot = first_line("/proc/sys/kernel/random/boot_id");
  if (boot.empty() || boot_id.empty()) return false;
  if (boot != boot_id) return true;
  if (pid_namespace != lockstep::pid_namespace()) return false;
  if (::kill(static_cast<pid_t>(pid), 0) != 0) return errno == ESRCH;
  const ProcessState now = process_state(pid);
  // A process that may not be looked at is there.
  if (now.state == 0) return false;
  return now.gone() || (start_time != 0 && now.start_time != start_time);
}

std::string LeaseHolder::text() const {
  return fmt::format("process {} on {}", pid, printable(host.substr(0, 64)));
}

LeaseText::LeaseText(const LeaseHolder& holder) {
  const nlohmann::ordered_json j{{"host", holder.host},
                                 {"pid", holder.pid},
                                 {"start_time", holder.start_time},
                                 {"boot_id", holder.boot_id},
                                 {"pid_namespace", holder.pid_namespace},
                                 {"run_id", holder.run_id},
                                 {"slurm_job", holder.slurm_job},
                                 {"period", holder.period}};
  // What is no UTF-8 is replaced: it is there to be recognised, not to be read.
  text_ = j.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  text_.pop_back();
  text_ += ",\"held\":";
  head_ = text_.size();
  text_ += std::string(number_width, ' ') + second_name + std::string(number_width, ' ') + "}\n";
  renew(0, 0);
}

void LeaseText::renew(double held, std::uint64_t renewals) {
  put_number(text_.data() + head_, static_cast<unsigned long long>(std::max(held, 0.0)));
  put_number(text_.data() + head_ + number_width + std::strlen(second_name), renewals);
}

bool LeaseText::is_of(std::string_view other) const {
  return other.substr(0, head_) == std::string_view(text_).substr(0, head_);
}

std::optional<LeaseHolder> parse_lease(const std::string& text) {
  try {
    const nlohmann::json j = nlohmann::json::parse(text);
    const auto whole = [&](const char* key) {
      const nlohmann::json& value = j.at(key);
      if (!value.is_number_unsigned()) throw InputError("not a count");
      return value.get<std::uint64_t>();
    };
    const auto seconds = [&](const char* key) {
      const nlohmann::json& value = j.at(key);
      if (!value.is_number()) throw InputError("not a number");
      return value.get<double>();
    };
    LeaseHolder holder;
    holder.host = j.at("host").get<std::string>();
    const std::uint64_t pid = whole("pid");
    if (pid < 1 || pid > most_pid) return std::nullopt;
    holder.pid = static_cast<long>(pid);
    holder.start_time = whole("start_time");
    holder.boot_id = j.at("boot_id").get<std::string>();
    holder.pid_namespace = j.at("pid_namespace").get<std::string>();
    holder.run_id = j.at("run_id").get<std::string>();
    holder.slurm_job = j.at("slurm_job").get<std::string>();
    holder.period = std::clamp(seconds("period"), least_period, most_period);
    holder.held = std::clamp(seconds("held"), 0.0, 1e12);
    return holder;
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  } catch (const InputError&) {
    return std::nullopt;
  }
}

std::string read_lease(const std::string& path) {
  const auto changing_words = [&]() -> std::string {
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0) return "";
    return fmt::format("unreadable {} {} {}.{}", status.st_ino, status.st_size, status.st_mtim.tv_sec,
                       status.st_mtim.tv_nsec);
  };
  // O_NONBLOCK: a FIFO of that name must not hang.
  const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (!fd || ::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) return changing_words();
  std::string text(most_bytes, '\0');
  const ssize_t n = ::pread(fd.get(), text.data(), text.size(), 0);
  if (n <= 0) return changing_words();
  text.resize(static_cast<std::size_t>(n));
  return text;
}

DirectoryLock::DirectoryLock(const std::string& directory) noexcept
    : fd_(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  constexpr int tries = 50;
  for (int i = 0; fd_ && i < tries && ::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0; ++i) {
    if (errno != EWOULDBLOCK && errno != EINTR) return;
    ::usleep(20'000);
  }
}

}  // namespace lockstep
