#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "trainer/data/csv_schema.h"

namespace lockstep {

/// Watches the features of a training file for columns that tell where a sample stands and not what it is:
/// pandas' index, an id. Such a column lets a model learn the order of the file.
class IndexWatch {
 public:
  explicit IndexWatch(const CsvColumns& columns);

  /// The next sample's value of feature number `feature`.
  void add(std::size_t feature, double value) {
    Column& column = columns_[feature];
    if (column.counts && value != column.next) column.counts = false;
    column.next += 1;
    if (column.suspect) column.values.push_back(value);
  }
  /// The first sample, before its values are added.
  void start(std::size_t feature, double value);

  /// Once all samples are added. InputError for a column without a name whose values are different whole
  /// numbers: an index beyond doubt. The result warns of the others.
  std::vector<std::string> findings(const std::string& origin, std::int64_t samples);

 private:
  struct Column {
    std::size_t place = 0;  // in the file
    bool counts = false;    // up by one from sample to sample
    bool suspect = false;   // by its name
    bool nameless = false;
    double first = 0;
    double next = 0;
    std::vector<double> values;
  };
  /// How data.drop names a column.
  std::string drop_word(std::size_t place) const;
  static bool different_integers(std::vector<double>& values);

  bool header_;
  std::vector<std::string> names_;
  std::vector<Column> columns_;
};

}  // namespace lockstep
