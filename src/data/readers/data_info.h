#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/shape.h"
#include "data/normalize.h"
#include "data/readers/csv.h"

namespace lockstep {

/// What training learnt about its data and every later use must follow. Stored with the run.
struct DataInfo {
  Shape sample_shape;
  std::int64_t classes = 0;              ///< classification; 0 for regression
  std::vector<std::string> class_names;  ///< empty, or one for each class
  std::int64_t target_width = 0;         ///< regression; 0 for classification
  std::int64_t train_file_samples = 0;   ///< what data position and splits are counted in
  CsvSchema csv;                         ///< empty unless data.format = csv
  Normalizer normalizer;

  /// "3", or the class's name where it has one.
  std::string class_name(std::int64_t label) const;
  /// Of a regression: the name of the column that target number `target` comes from, or "target 2".
  std::string target_name(std::int64_t target) const;
  /// One JSON object; float64 values come back as the same bits. InputError where a name is no UTF-8.
  std::string to_json() const;
  /// Reads what to_json() wrote; everything else is an InputError that names `origin` and how to mend
  /// it.
  static DataInfo from_json(const std::string& text, const std::string& origin);

  friend bool operator==(const DataInfo&, const DataInfo&) = default;
};

}  // namespace lockstep
