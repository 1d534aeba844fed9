#pragma once

#include <cstddef>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/cuda/library/library_plans.h"
#include "model/cuda/tuning/plan_tuner.h"

namespace lockstep::test {

/// A library whose plans are names with running times, as PlanPicker wants one.
class FakePlanLibrary {
 public:
  /// Of a pass and shape, in the heuristics' order.
  std::map<std::string, std::vector<cuda::TimedPlan>> plans;
  std::vector<std::string> measured;  ///< passes and shapes, in order

  template <class Pass, class Shape>
  bool prepare(Pass pass, const Shape& shape, const std::string& wanted) {
    if (offers(pass, shape, wanted)) return true;
    if (!wanted.empty()) throw std::runtime_error("there is no plan " + wanted);
    return false;
  }
  template <class Pass, class Shape>
  bool offers(Pass pass, const Shape& shape, const std::string& plan) {
    const std::string what = cuda::describe(pass, shape);
    if (made_.count(what) != 0) return true;
    for (const cuda::TimedPlan& p : plans[what]) {
      if (!plan.empty() && p.name != plan) continue;
      made_[what] = p.name;
      return true;
    }
    return false;
  }
  template <class Pass, class Shape>
  std::string name(Pass pass, const Shape& shape) const {
    return made_.at(cuda::describe(pass, shape));
  }
  template <class Pass, class Shape>
  cuda::PlanTuner::Measured measure(Pass pass, const Shape& shape) {
    measured.push_back(cuda::describe(pass, shape));
    return {plans[measured.back()], {}};
  }

 private:
  std::map<std::string, std::string> made_;
};

}  // namespace lockstep::test
