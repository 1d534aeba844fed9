#pragma once

#include <algorithm>
#include <string_view>
#include <vector>

namespace lockstep::cuda {

/// How long calls of a library between ranks may take on the host. The first call of a name may still connect
/// to peers, of which there can be many hosts: it has more time than those that follow.
class CallLimits {
 public:
  struct Limit {
    bool connects = false;
    double seconds = 0;  ///< 0: none
  };
  /// `timeout_s` 0: no limit.
  explicit CallLimits(double timeout_s) : timeout_s_(timeout_s) {}
  /// Of the next call of this name.
  Limit next(std::string_view call) {
    if (std::find(made_.begin(), made_.end(), call) != made_.end()) return {false, timeout_s_};
    made_.emplace_back(call);
    return {true, connect_factor * timeout_s_};
  }
  static constexpr double connect_factor = 5;

 private:
  double timeout_s_;
  std::vector<std::string_view> made_;  // names are literals
};

}  // namespace lockstep::cuda
