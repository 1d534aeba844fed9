#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/file.h"

namespace lockstep {

/// Seconds between two renewals of a lease, unless this variable tells another number.
inline constexpr double default_lease_period = 2;
inline constexpr const char* lease_period_variable = "LOCKSTEP_LEASE_PERIOD";

/// Who is at a run: lease.json of the run directory, as its holder writes it.
struct LeaseHolder {
  std::string host;
  long pid = 0;
  std::uint64_t start_time = 0;          ///< of the process, in ticks since the machine's start
  std::string boot_id;                   ///< of the machine since its start
  std::string pid_namespace;             ///< within which the pid means something
  std::string run_id;                    ///< LOCKSTEP_RUN_ID, the same for all starts of one lockstep-run
  std::string slurm_job;                 ///< cluster and job, the same for all starts of one job of Slurm
  double period = default_lease_period;  ///< seconds
  double held = 0;                       ///< seconds from the holder's start to its last renewal

  /// This process. ConfigError for a period that is none.
  static LeaseHolder self();
  /// Whether both are starts of one job: the later one takes the earlier one's place.
  bool is_start_of_same_job(const LeaseHolder& other) const;
  /// Whether this process can tell that the holder is no more: it was one of this host, and the process has
  /// ended or the machine was started anew. A process that is stopped is there.
  bool is_gone() const;
  /// "process 17 on node3", fit for a terminal.
  std::string text() const;
};

/// The text of a lease: one JSON object of a fixed length, in which a renewal changes nothing but two numbers
/// in their places. Making one allocates; renewing it does not.
class LeaseText {
 public:
  explicit LeaseText(const LeaseHolder& holder);
  void renew(double held, std::uint64_t renewals);
  const std::string& text() const { return text_; }
  /// Whether `other` is a text of this very lease, at whatever renewal.
  bool is_of(std::string_view other) const;

 private:
  std::string text_;
  std::size_t head_ = 0;  // bytes before the numbers
};

/// What a lease says; nothing for what no Lockstep wrote.
std::optional<LeaseHolder> parse_lease(const std::string& text);

/// The bytes of the file, empty where there is none. What cannot be read, or is no file, gives words of its
/// own that change when it does.
std::string read_lease(const std::string& path);

/// Keeps other processes of well-behaved Lockstep from looking at a lease and replacing it at the same time.
/// Where the file system has no locks, or somebody keeps this one for longer than a second, it does nothing.
class DirectoryLock {
 public:
  explicit DirectoryLock(const std::string& directory) noexcept;

 private:
  FileDescriptor fd_;
};

}  // namespace lockstep
