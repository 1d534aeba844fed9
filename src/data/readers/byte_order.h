#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/readers/idx.h"

namespace lockstep {

// IDX is big-endian. A file that was written the other way reads as other numbers, and seldom as an error.

/// The end of a message on extents that cannot be: whether they fit when their bytes are reversed, else "".
/// `element`: bytes of one; `most`: what the file can hold, `exactly` where it holds just so much.
std::string reversed_extents(const std::vector<std::int64_t>& dims, std::uint64_t element, std::uint64_t most,
                             bool exactly);

/// What speaks for values in the wrong order, e.g. "value 16777216 is 1 with its bytes reversed"; "" where
/// nothing does. Of floats it is beyond doubt; integers may be multiples of a power of two by themselves.
std::string reversed_values(const IdxArray& array);

/// Looks for values in the wrong byte order: an InputError for floats, and where `certain`. Integers of
/// samples may be what they are: that is added to `doubts`.
void look_at_byte_order(const IdxArray& array, bool certain, std::vector<std::string>& doubts);

}  // namespace lockstep
