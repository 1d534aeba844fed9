#include "model/cuda/plan/plan_names.h"

#include "core/error.h"
#include "core/text.h"

namespace lockstep::cuda {

PlanNames::PlanNames(const std::string& text) {
  for (const std::string_view line : split(text, '\n')) {
    if (line.empty()) continue;
    const std::size_t middle = line.find(" = ");
    require(middle != std::string_view::npos, "a line of a plan choice has no \" = \"");
    names_[std::string(line.substr(0, middle))] = std::string(line.substr(middle + 3));
  }
}

std::string PlanNames::text() const {
  std::string text;
  for (const auto& [what, plan] : names_) text += what + " = " + plan + "\n";
  return text;
}

const std::string& PlanNames::find(const std::string& what) const {
  static const std::string none;
  const auto found = names_.find(what);
  return found == names_.end() ? none : found->second;
}

}  // namespace lockstep::cuda
