#pragma once

#include <cstdint>
#include <string>

namespace lockstep {

/// What the keys optimizer.* say.
struct OptimizerOptions {
  std::string name = "sgd";  ///< of a rule (optim/rules/table.h)
  double lr = 0.01;
  double momentum = 0.0;
  bool nesterov = false;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double trust = 0.001;       ///< lars: the rate of a parameter goes by this
  double weight_decay = 0.0;  ///< as the rule has it: added to the gradient, or decoupled
  bool decay_norms = true;    ///< false: weight_decay leaves parameters of rank 1 alone
  std::string groups;         ///< other rates and decays by name (optim/groups.h)
  double clip_norm = 0.0;     ///< 0: off
  bool sharded = true;
};

/// What the keys schedule.* say.
struct ScheduleOptions {
  std::string name = "constant";  ///< constant, cosine, step
  std::int64_t warmup_steps = 0;
  std::int64_t steps = 0;  ///< (auto) the horizon
  double min_lr = 0.0;     ///< cosine ends here
  std::string milestones;  ///< step: rising steps, comma separated, at which lr is multiplied by gamma
  double gamma = 0.1;      ///< step
  std::string changes;     ///< other values from some step on (trainer/config/schedule_changes.h)
};

}  // namespace lockstep
