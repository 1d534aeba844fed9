#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep {

/// Counts of (label, prediction) pairs. Exact: sums of ranks and slices do not depend on their order.
class ConfusionMatrix {
 public:
  /// classes >= 1.
  explicit ConfusionMatrix(std::int64_t classes);
  /// From counts in row-major order (label, prediction), e.g. summed over ranks.
  ConfusionMatrix(std::int64_t classes, std::vector<std::int64_t> counts);

  std::int64_t classes() const { return classes_; }
  /// Both in [0, classes), else InternalError.
  void add(std::int64_t label, std::int64_t prediction, std::int64_t times = 1);
  std::int64_t count(std::int64_t label, std::int64_t prediction) const;
  /// classes * classes, row-major, a row per label.
  const std::vector<std::int64_t>& counts() const { return counts_; }

 private:
  std::size_t at(std::int64_t label, std::int64_t prediction) const;
  std::int64_t classes_;
  std::vector<std::int64_t> counts_;
};

struct ClassScore {
  double precision = 0;      ///< correct / predicted as this class; 0 when it was never predicted
  double recall = 0;         ///< correct / samples of this class; 0 when there is none
  double f1 = 0;             ///< harmonic mean of both; 0 when both are 0
  std::int64_t support = 0;  ///< samples of this class
};

/// Scores of a classifier. A quotient whose divisor is 0 counts as 0, as with scikit-learn's zero_division=0;
/// the text names the classes concerned.
struct ClassificationReport {
  explicit ClassificationReport(const ConfusionMatrix& matrix);
  std::vector<ClassScore> scores;  ///< per class
  ClassScore macro;                ///< means over classes, each weighing the same; support: all samples
  double accuracy = 0;             ///< 0 without samples
  std::int64_t samples = 0;
  std::int64_t correct = 0;
};

/// The table of scores with accuracy and macro averages. `names`: one per class, or empty for numbers.
std::string report_text(const ConfusionMatrix& matrix, const std::vector<std::string>& names = {});
/// The confusion matrix, a row per label and a column per prediction. More than `widest` classes give one
/// line that says where to find it.
std::string confusion_text(const ConfusionMatrix& matrix, const std::vector<std::string>& names = {},
                           std::int64_t widest = 20);
/// {"samples", "accuracy", "macro": {...}, "classes": [{"name", "precision", "recall", "f1", "support"}],
/// "confusion": [[...]]}, on one line.
std::string report_json(const ConfusionMatrix& matrix, const std::vector<std::string>& names = {});

}  // namespace lockstep
