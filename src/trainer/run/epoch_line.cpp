#include "trainer/run/epoch_line.h"

#include <cmath>
#include <fmt/format.h>

namespace lockstep {
namespace {

constexpr std::size_t columns = 80;

/// Four decimals where that is short, else five digits.
std::string number(double value) {
  return std::abs(value) >= 1000 ? fmt::format("{:.4e}", value) : fmt::format("{:.4f}", value);
}

void add(std::string& text, double loss, std::optional<double> accuracy) {
  text += "loss " + number(loss);
  if (accuracy) text += fmt::format(" acc {:.4f}", *accuracy);
}

}  // namespace

std::string epoch_line_text(const EpochLine& line) {
  std::string text = line.head + "  ";
  if (line.loss)
    add(text, *line.loss, line.accuracy);
  else
    text += "every batch was skipped";
  if (!line.validation_loss) return text;
  std::string validation = "validation: ";
  if (std::isfinite(*line.validation_loss))
    add(validation, *line.validation_loss, line.validation_accuracy);
  else
    validation += "no finite loss";
  if (line.best) validation += "  best";
  const bool fits = text.size() + 2 + validation.size() <= columns;
  return text + (fits ? "  " : "\n    ") + validation;
}

}  // namespace lockstep
