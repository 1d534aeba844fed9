#pragma once

#include <cstdint>
#include <string>

#include "trainer/checkpoint/run_state.h"
#include "trainer/config/config.h"
#include "trainer/evaluate/evaluation.h"

namespace lockstep {

/// What train.best asks for: "accuracy" or "loss". auto is accuracy where there are classes.
std::string best_metric_name(const Config& config, bool classes);

/// Whether a validation is better than all before it: of higher accuracy, or of equal accuracy and lower
/// loss; by loss, of lower loss. Equal ones leave the earlier. One whose loss is not finite is never better.
bool is_better(const Evaluation& now, const std::string& metric, const BestValidation& best);

/// That validation as the best, reached at `step`.
BestValidation best_of(const Evaluation& now, const std::string& metric, std::int64_t step);

/// "accuracy 0.9051, loss 0.2702", or "loss 0.2702".
std::string best_text(const BestValidation& best, const std::string& metric);

}  // namespace lockstep
