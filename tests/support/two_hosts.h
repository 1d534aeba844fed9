#pragma once

#include <string>
#include <unistd.h>
#include <vector>

#include "support/process.h"

namespace lockstep::test {

/// Two hosts for the life of a test, with names of this process's own.
class TwoHosts {
 public:
  TwoHosts() {
    const ProcessResult up = run_process({script("up.sh"), name_});
    stands_ = up.exit_code == 0;
    reason_ = "two network namespaces cannot be made (needs root and iproute2): " + up.err;
  }
  ~TwoHosts() {
    if (stands_) run_process({script("down.sh"), name_});
  }
  TwoHosts(const TwoHosts&) = delete;
  TwoHosts& operator=(const TwoHosts&) = delete;

  bool stand() const { return stands_; }
  const std::string& reason() const { return reason_; }
  const std::string& name() const { return name_; }
  ProcessResult mpirun(const std::vector<std::string>& options,
                       const std::vector<std::string>& program) const {
    std::vector<std::string> argv = {script("mpirun.sh"), name_};
    argv.insert(argv.end(), options.begin(), options.end());
    argv.insert(argv.end(), program.begin(), program.end());
    return run_process(argv);
  }
  /// The argv of a command on the first host, from which mpirun reaches both.
  std::vector<std::string> on_first(const std::vector<std::string>& command) const {
    std::vector<std::string> argv = {script("on_a.sh"), name_};
    argv.insert(argv.end(), command.begin(), command.end());
    return argv;
  }
  /// Cuts the link between the hosts, or joins it again.
  void cut() const { run_process({script("cut.sh"), name_, "down"}); }
  void join() const { run_process({script("cut.sh"), name_, "up"}); }

 private:
  static std::string script(const std::string& name) {
    return std::string(LOCKSTEP_SOURCE_DIR) + "/tests/netns/" + name;
  }
  const std::string name_ = "lockstep-" + std::to_string(getpid());
  bool stands_ = false;
  std::string reason_;
};

}  // namespace lockstep::test
