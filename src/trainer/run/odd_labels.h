#pragma once

#include <cstdint>
#include <string>

#include "trainer/data/open.h"

namespace lockstep {

/// Which labels need more outputs than the `outputs` of a model, in one sentence: the place and the value of
/// the first of them, and what the others are. Empty where the labels do not tell. For the refusal of a model
/// whose outputs are fixed. Looks at all splits; no communication.
std::string odd_labels(const DataSets& data, std::int64_t outputs);

}  // namespace lockstep
