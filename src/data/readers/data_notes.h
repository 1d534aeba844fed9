#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/log.h"
#include "data/memory_dataset.h"
#include "data/readers/csv_schema.h"

namespace lockstep {

struct DataInfo;

/// What was taken as what, for the user: gathered while data are opened, alike on all ranks, and told by one.
struct DataNotes {
  std::vector<std::string> facts;     ///< a line for each file
  std::vector<std::string> warnings;  ///< what looks wrong and was taken all the same

  void tell(const Log& log) const;
};

/// "'train.csv': 569 samples of 30 features, header in line 1; label column 'diagnosis', 2 classes: benign
/// 357, malignant 212". `columns`: how a CSV file's columns are named; null for other data. `header`: whether
/// this CSV file has one, which the training file need not have.
std::string describe_content(const MemoryContent& content, const DataInfo& info, const CsvSchema* columns,
                             bool header);

/// ", and the others reach 2": the largest of the labels below `largest`; "" where there is none.
std::string others_reach(const std::vector<std::int32_t>& labels, std::int32_t largest);

/// Of a training file with classes: labels that look wrong. Classes that never occur (labels that count from
/// 1), a class for every sample.
std::vector<std::string> doubts_about_labels(const MemoryContent& content, const DataInfo& info);

}  // namespace lockstep
