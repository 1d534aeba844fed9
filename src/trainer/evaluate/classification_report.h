#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "comm/communicator.h"

namespace lockstep {

/// How many samples of a label got a prediction.
struct ConfusionCell {
  std::int64_t label = 0;
  std::int64_t prediction = 0;
  std::int64_t count = 0;
  friend bool operator==(const ConfusionCell&, const ConfusionCell&) = default;
};

/// Counts of (label, prediction) pairs. Exact: sums of ranks and slices do not depend on their order. Only
/// pairs that occur take memory, so a million classes cost nothing.
class ConfusionMatrix {
 public:
  /// classes >= 1.
  explicit ConfusionMatrix(std::int64_t classes);
  ConfusionMatrix(std::int64_t classes, const std::vector<ConfusionCell>& cells);

  std::int64_t classes() const { return classes_; }
  /// Both in [0, classes), else InternalError.
  void add(std::int64_t label, std::int64_t prediction, std::int64_t times = 1);
  std::int64_t count(std::int64_t label, std::int64_t prediction) const;
  /// Those that are not 0, by label, then by prediction.
  std::vector<ConfusionCell> cells() const;

 private:
  std::int64_t at(std::int64_t label, std::int64_t prediction) const;
  std::int64_t classes_;
  std::unordered_map<std::int64_t, std::int64_t> counts_;  // by label * classes + prediction
};

/// (all) The sums over all ranks, on every rank. Ranks exchange what is not 0.
ConfusionMatrix sum_over_ranks(Communicator& comm, const ConfusionMatrix& mine);

struct ClassScore {
  std::int64_t label = -1;     ///< the class
  double precision = 0;        ///< correct / predicted as this class; 0 when it was never predicted
  double recall = 0;           ///< correct / samples of this class; 0 when there is none
  double f1 = 0;               ///< harmonic mean of both; 0 when both are 0
  std::int64_t support = 0;    ///< samples of this class
  std::int64_t predicted = 0;  ///< samples that were taken for it
};

/// Scores of a classifier. A quotient whose divisor is 0 counts as 0, as with scikit-learn's zero_division=0;
/// the text names the classes concerned.
struct ClassificationReport {
  explicit ClassificationReport(const ConfusionMatrix& matrix);
  /// Of the classes that occur, as label or as prediction, in their order; the scores of all others are 0.
  std::vector<ClassScore> scores;
  std::int64_t classes = 0;  ///< all of them
  ClassScore macro;          ///< means over all classes, each weighing the same; support: all samples
  double accuracy = 0;       ///< 0 without samples
  std::int64_t samples = 0;
  std::int64_t correct = 0;
};

/// Up to so many classes a report tells of each of them, and its JSON holds the whole confusion matrix.
inline constexpr std::int64_t most_classes_told = 60;

/// The table of scores with accuracy and macro averages. `names`: one per class, or empty for numbers. Of
/// more than `most_classes_told` classes it holds the worst by F1 (of equal ones those with more samples),
/// says how many it leaves out, and that `elsewhere` has them.
std::string report_text(const ConfusionMatrix& matrix, const std::vector<std::string>& names = {},
                        const std::string& elsewhere = "the JSON report (--output)");
/// The confusion matrix, a row per label and a column per prediction. More than `widest` classes give one
/// line that says where to find it.
std::string confusion_text(const ConfusionMatrix& matrix, const std::vector<std::string>& names = {},
                           std::int64_t widest = 20,
                           const std::string& elsewhere = "the JSON report (--output)");
/// {"samples", "accuracy", "macro": {...}, "classes": [{"label", "name", "precision", "recall", "f1",
/// "support", "predicted"}], "confusion": [[...]]}, on one line. Of more than `most_classes_told` classes:
/// "classes" holds those that occur, and "confusion_cells": [[label, prediction, count], ...] stands in place
/// of "confusion".
std::string report_json(const ConfusionMatrix& matrix, const std::vector<std::string>& names = {});

}  // namespace lockstep
