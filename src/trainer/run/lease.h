#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/log.h"
#include "trainer/run/lease_file.h"

namespace lockstep {

/// What a job leaves in the run directory while it is at the run, so that another start does not take the
/// run from it unasked. It advises; what one job may displace of another's is decided by generations alone
/// (CheckpointStore). A thread renews it, whatever the training does; a job that is stopped, or cut off,
/// stops renewing. One process of a job has one: rank 0.
///
/// No clocks are compared: a lease is old when whoever looks has seen it unchanged for two of its periods.
class Lease {
 public:
  /// Touches nothing. `log` must outlive this object. `cpus`: that the thread may run on; empty: those of the
  /// caller. ConfigError for a bad value of the variable.
  Lease(std::string run_directory, const Log& log, std::vector<int> cpus);
  /// Ends the thread, and removes the lease where it is this one's.
  ~Lease();
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  /// Returns when nobody is at the run: there is no lease, it is of an earlier start of the same job, its
  /// holder is gone, or it grew old while this call watched; or at once with `take_over`. Whom the run is
  /// taken from is told in one line. Throws InputError with host, pid and age when the lease is renewed
  /// meanwhile, and an Error with the code of a stopped run when this process is asked to stop meanwhile.
  /// Writes nothing.
  void await(bool take_over);
  /// Writes the lease, and renews it from here on. Where somebody was quicker since await(), that is done
  /// again, with its errors. A lease that cannot be written costs a warning.
  void take();
  /// After take(): what gives the run back as the destructor does, for a process that ends without it. It may
  /// be called by any thread, and after this object is gone, when it does nothing.
  std::function<void()> giving_back() const;

 private:
  class Renewal;
  [[noreturn]] void refuse(const std::string& seen) const;
  std::string directory_, path_;
  const Log& log_;
  std::vector<int> cpus_;
  LeaseHolder self_;
  bool take_over_ = false;
  std::string agreed_;  // the lease that await() has found to be no hindrance; empty: none
  std::shared_ptr<Renewal> renewal_;
};

}  // namespace lockstep
