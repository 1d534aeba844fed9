#pragma once

#include <map>
#include <span>
#include <string>

namespace lockstep::cuda {

/// Names of chosen plans, "<what is computed> = <plan>" a line.
class PlanNames {
 public:
  PlanNames() = default;
  /// Throws InternalError for text that is none.
  explicit PlanNames(const std::string& text);
  std::string text() const;
  /// The plan of `what`, or empty.
  const std::string& find(const std::string& what) const;
  void set(const std::string& what, const std::string& plan) { names_[what] = plan; }

 private:
  std::map<std::string, std::string> names_;
};

/// The first of `passes` that was chosen; the last if none was.
template <class Pass, class Shape>
Pass chosen_pass(std::span<const Pass> passes, const Shape& shape, const PlanNames& chosen) {
  for (const Pass pass : passes)
    if (!chosen.find(describe(pass, shape)).empty()) return pass;
  return passes.back();
}

}  // namespace lockstep::cuda
