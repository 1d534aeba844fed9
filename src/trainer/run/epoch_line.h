#pragma once

#include <optional>
#include <string>

namespace lockstep {

/// What one line on standard output says of an epoch, or of a training that ended within one.
struct EpochLine {
  std::string head;            ///< "epoch 3/20"
  std::optional<double> loss;  ///< of the training; none: every batch was skipped
  std::optional<double> accuracy;
  std::optional<double> validation_loss;
  std::optional<double> validation_accuracy;
  bool best = false;  ///< this validation is the best so far
};

/// "epoch 3/20  loss 0.2514 acc 0.9123  validation: loss 0.2702 acc 0.9051  best". Where that is longer than
/// 80 columns, the validation stands on a line of its own, set in. Without a newline at the end.
std::string epoch_line_text(const EpochLine& line);

}  // namespace lockstep
