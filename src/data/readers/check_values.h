#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/readers/data_info.h"

namespace lockstep {

// Whether the values of a data set can be used as a model was trained to see them. Each rank calls these
// without communication and gets the same.

/// Throws InputError that names the first sample and column of which the normalised input, or the scaled
/// target, is beyond float32.
void refuse_beyond_float32(const Dataset& data, const DataInfo& info);

/// Sentences for the user about the training split: columns that were taken for constant since their values
/// differ by rounding alone.
std::vector<std::string> warnings_of_training(const Dataset& train, const DataInfo& info);

/// A sentence about the first input that lies further than a million deviations from the mean of the training
/// split, or none.
std::vector<std::string> warnings_of_inputs(const Dataset& data, const DataInfo& info);

/// What stands at place `element` of a sample: "column 'age'", "channel 2", "value number 17".
std::string element_text(const DataInfo& info, std::int64_t element);

}  // namespace lockstep
