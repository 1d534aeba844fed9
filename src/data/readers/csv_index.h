#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "data/readers/csv_schema.h"

namespace lockstep {

/// Watches the features of a training file for columns that tell where a sample stands and not what it is:
/// pandas' index, an id. Such a column lets a model learn the order of the file.
class IndexWatch {
 public:
  explicit IndexWatch(const CsvColumns& columns);

  /// The next sample's value of feature number `feature`.
  void add(std::size_t feature, double value);

  /// Once all samples are added. InputError for a column without a name whose values are different whole
  /// numbers: an index beyond doubt. The result warns of the others: ids by their names, columns that go up
  /// or down by as much from line to line, and those that hold every number of such a row once. `values`: of
  /// all features, sample by sample.
  std::vector<std::string> findings(const std::string& origin, std::int64_t samples,
                                    const std::vector<float>& values);

 private:
  struct Column {
    std::size_t place = 0;  // in the file
    bool steps = true;      // by as much from sample to sample
    bool whole = true;      // numbers only
    bool suspect = false;   // by its name
    bool nameless = false;
    std::int64_t samples = 0;
    double first = 0;
    double last = 0;
    double step = 0;
    double low = 0;
    double high = 0;
    std::vector<double> values;
  };
  /// What is odd about a column that has a name no index has: the end of a sentence, or "".
  std::string counting(std::size_t feature, const std::vector<float>& values) const;
  /// Whether its values are low, low + step, …, high, each once, in any order.
  bool permutes(std::size_t feature, const std::vector<float>& values, double step) const;
  /// How data.drop names a column.
  std::string drop_word(std::size_t place) const;
  static bool different_integers(std::vector<double>& values);

  bool header_;
  std::vector<std::string> names_;
  std::vector<Column> columns_;
};

}  // namespace lockstep
