#include "trainer/run/lease.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <fcntl.h>
#include <fmt/format.h>
#include <mutex>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>

#include "core/error.h"
#include "core/text.h"
#include "trainer/run/preemption.h"

namespace lockstep {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// A lower priority than the lanes have: the watchdog takes a thread like them that gets no cpu for a sign
/// that the machine is crowded. And the cpus of the whole process, not the one that lane 0 is pinned to.
void fit_thread(const std::vector<int>& cpus) {
  if (!cpus.empty()) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const int cpu : cpus)
      if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET(cpu, &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
  }
  const auto self = static_cast<id_t>(gettid());
  setpriority(PRIO_PROCESS, self, getpriority(PRIO_PROCESS, self) + 1);
}

std::string error_text(int code) {
  return std::generic_category().message(code);
}

}  // namespace

/// The lease of this process on disk.
class Lease::Renewal {
 public:
  Renewal(std::string directory, std::string path, const Log& log, const LeaseHolder& self,
          std::vector<int> cpus)
      : directory_(std::move(directory)),
        path_(std::move(path)),
        temporary_(fmt::format("{}.tmp.{}.0", path_, ::getpid())),
        log_(log),
        text_(self),
        period_(self.period),
        cpus_(std::move(cpus)),
        begin_(Clock::now()) {}

  ~Renewal() {
    if (thread_.joinable()) {
      {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
      }
      changed_.notify_one();
      thread_.join();
    }
    remove();
  }

  /// From a process that ends: no renewal comes after this.
  void give_back() {
    const std::lock_guard lock(mutex_);
    if (std::exchange(stopping_, true)) return;
    changed_.notify_one();
    remove();
  }

  /// Under the directory's lock. Replaces whatever lease there is: its holder's renewals then go to a file
  /// without a name.
  void write_new() {
    if (const int error = write_temporary(); error != 0) return warn(error);
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) warn(errno);
  }

  void start() {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] { run(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

 private:
  void run() {
    fit_thread(cpus_);
    std::unique_lock lock(mutex_);
    const auto period = std::chrono::duration<double>(period_);
    while (!changed_.wait_for(lock, period, [this] { return stopping_; })) renew();
  }

  void remove() {
    const DirectoryLock lock(directory_);
    if (text_.is_of(read_lease(path_))) ::unlink(path_.c_str());
    ::unlink(temporary_.c_str());
  }

  void renew() {
    text_.renew(seconds_since(begin_), ++renewals_);
    const FileDescriptor fd(::open(path_.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
    if (!fd) {
      if (errno != ENOENT) return warn(errno);
      // Whoever had taken the run over has ended, or somebody removed it. A link does not replace.
      if (const int error = write_temporary(); error != 0) return warn(error);
      const int failed = ::link(temporary_.c_str(), path_.c_str()) != 0 ? errno : 0;
      ::unlink(temporary_.c_str());
      if (failed != 0 && failed != EEXIST) warn(failed);
      return;
    }
    // A lease is replaced by another file, so what is read here and written below is one job's.
    std::array<char, 4096> now{};
    const ssize_t n = ::pread(fd.get(), now.data(), now.size(), 0);
    if (n < 0) return warn(errno);
    if (!text_.is_of(std::string_view(now.data(), static_cast<std::size_t>(n)))) return;
    const std::string& text = text_.text();
    if (::pwrite(fd.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) warn(errno);
  }

  /// 0, or the error.
  int write_temporary() {
    const FileDescriptor fd(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (!fd) return errno;
    errno = ENOSPC;
    const std::string& text = text_.text();
    if (::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())) return 0;
    const int error = errno;
    ::unlink(temporary_.c_str());
    return error;
  }

  void warn(int error) {
    if (std::exchange(warned_, true)) return;
    log_.warning(
        "'{}' cannot be written ({}): the training goes on, but another start cannot see that this run is "
        "being trained",
        path_, error_text(error));
  }

  std::string directory_, path_, temporary_;
  const Log& log_;
  LeaseText text_;
  double period_;
  std::vector<int> cpus_;
  Clock::time_point begin_;
  std::uint64_t renewals_ = 0;
  bool warned_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::thread thread_;
};

Lease::Lease(std::string run_directory, const Log& log, std::vector<int> cpus)
    : directory_(std::move(run_directory)),
      path_(directory_ + "/lease.json"),
      log_(log),
      cpus_(std::move(cpus)),
      self_(LeaseHolder::self()) {}

Lease::~Lease() = default;

void Lease::refuse(const std::string& seen) const {
  const auto holder = parse_lease(seen);
  if (!holder)
    throw InputError(fmt::format(
        "'{}' changes: another program is at the run in '{}'; end it, name another run.dir, or take "
        "the run over with --take-over",
        path_, directory_));
  throw InputError(fmt::format(
      "the run in '{}' is being trained by {}, for {} so far, and its lease was renewed just now; "
      "wait for it or end it, name another run.dir, or take the run over with --take-over",
      directory_, holder->text(), human_duration(holder->held)));
}

void Lease::await(bool take_over) {
  take_over_ = take_over;
  agreed_ = read_lease(path_);
  if (agreed_.empty()) return;
  const Clock::time_point begin = Clock::now();
  const auto holder = parse_lease(agreed_);
  const std::string who = holder ? holder->text() : "a job whose lease cannot be read";
  const auto tell = [&](const std::string& why) {
    log_.info("taking the run in '{}' over from {}: {}", directory_, who, why);
  };
  if (holder && self_.is_start_of_same_job(*holder)) return tell("it was an earlier start of this job");
  const double period = holder ? holder->period : self_.period;
  while (true) {
    if (holder && holder->is_gone()) return tell("it has ended without giving the run back");
    if (take_over) {
      log_.warning(
          "taking the run in '{}' over from {}, as --take-over says: if it still runs, it ends when it saves "
          "next",
          directory_, who);
      return;
    }
    const double watched = seconds_since(begin);
    if (watched >= 2 * period)
      return tell(
          fmt::format("it has not renewed its lease for the {:.1f} s that this start has watched", watched));
    if (const int signal = preemption_signal(); signal != 0)
      throw Error(
          signal == SIGINT ? ExitCode::interrupted : ExitCode::preempted,
          fmt::format("asked to stop by {} while this start watched whether {} is still at the run in "
                      "'{}': nothing was changed; start it again to go on",
                      preemption_signal_name(signal), who, directory_));
    std::this_thread::sleep_for(std::chrono::duration<double>(std::min(period / 10, 0.1)));
    const std::string now = read_lease(path_);
    if (now == agreed_) continue;
    agreed_ = now;
    if (now.empty()) return;  // it has given the run back meanwhile
    if (const auto next = parse_lease(now); next && self_.is_start_of_same_job(*next))
      return tell("it was an earlier start of this job");
    refuse(now);
  }
}

void Lease::take() {
  while (true) {
    {
      const DirectoryLock lock(directory_);
      if (take_over_ || read_lease(path_) == agreed_) {
        renewal_ = std::make_shared<Renewal>(directory_, path_, log_, self_, cpus_);
        renewal_->write_new();
        break;
      }
    }
    await(take_over_);
  }
  renewal_->start();
}

std::function<void()> Lease::giving_back() const {
  return [renewal = std::weak_ptr(renewal_)] {
    if (const auto held = renewal.lock()) held->give_back();
  };
}

}  // namespace lockstep
