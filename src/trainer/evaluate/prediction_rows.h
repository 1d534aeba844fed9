#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "data/readers/data_info.h"
#include "trainer/evaluate/id_columns.h"

namespace lockstep {

enum class PredictionFormat { json_lines, csv };

/// By the ending of a file's name: ".csv" in any letter case is CSV, ".gz" is refused (InputError), all else
/// is JSON lines.
PredictionFormat prediction_format(const std::string& path);

/// Predictions as text, a row a sample.
///
/// JSON: "index", "id" (an object of the id columns, as text), and for classification "label" (index of the
/// class), "class" (its name, where it has one), "probability" and "probabilities"; for regression
/// "prediction" (one number, or a list).
///
/// CSV: index, the id columns, then label, class, probability, and probability.NAME of every class where
/// there are at most 60; or prediction, of several targets prediction.NAME. An id column that has the name of
/// another column is called id.NAME.
///
/// Predictions are in the units of the data, also where targets were scaled.
class PredictionRows {
 public:
  /// `info` must outlive this.
  PredictionRows(const DataInfo& info, PredictionFormat format, IdColumns ids);
  /// The first line; empty for JSON.
  std::string head() const;
  /// `output`: logits or predictions, none of them NaN or infinite.
  std::string row(std::int64_t index, std::span<const float> output) const;

 private:
  std::string json_row(std::int64_t index, std::span<const float> output) const;
  std::string csv_row(std::int64_t index, std::span<const float> output) const;
  std::span<const std::string> ids_of(std::int64_t index) const;
  const DataInfo& info_;
  PredictionFormat format_;
  IdColumns ids_;
};

}  // namespace lockstep
