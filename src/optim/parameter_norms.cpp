#include "optim/parameter_norms.h"

#include <algorithm>
#include <cmath>

#include "core/numerics/tree.h"

namespace lockstep {
namespace {

/// The sum over pieces [first, last), `which` of the two, along the tree over them.
double sum_of(std::span<const double> sums, std::size_t first, std::size_t last, std::size_t which) {
  if (last == first) return 0;
  if (last - first == 1) return sums[2 * first + which];
  const auto half = static_cast<std::size_t>(split_of(Node{0, static_cast<std::int64_t>(last - first)}));
  return sum_of(sums, first, first + half, which) + sum_of(sums, first + half, last, which);
}

}  // namespace

ParameterNorms::ParameterNorms(std::span<const FlatSegment> segments, std::int64_t elements) {
  for (std::size_t s = 0; s < segments.size(); ++s) {
    Numbers numbers{pieces_.size(), pieces_.size()};
    if (segments[s].is_trained()) {
      const Range whole = segments[s].storage;
      for (std::int64_t at = whole.begin; at < whole.end;) {
        const std::int64_t edge = (at / block_elements + 1) * block_elements;
        const std::int64_t end = std::min({edge, whole.end, elements});
        pieces_.push_back({{at, end}, static_cast<int>(s)});
        at = end;
      }
      numbers.last = pieces_.size();
    }
    of_segment_.push_back(numbers);
  }
}

ParameterNorms::Numbers ParameterNorms::pieces_in(Range range) const {
  const auto number_of = [&](std::int64_t element) {
    const auto found =
        std::lower_bound(pieces_.begin(), pieces_.end(), element,
                         [](const Piece& piece, std::int64_t e) { return piece.range.begin < e; });
    return static_cast<std::size_t>(found - pieces_.begin());
  };
  return {number_of(range.begin), number_of(range.end)};
}

std::vector<std::int64_t> ParameterNorms::sums_in(std::span<const Range> ranges) const {
  std::vector<std::int64_t> numbers;
  for (const Range& range : ranges) {
    const Numbers inside = pieces_in(range);
    for (std::size_t k = 2 * inside.first; k < 2 * inside.last; ++k)
      numbers.push_back(static_cast<std::int64_t>(k));
  }
  return numbers;
}

ParameterNorms::Norms ParameterNorms::norms(int segment, std::span<const double> sums) const {
  const Numbers pieces = of_segment_[static_cast<std::size_t>(segment)];
  return {std::sqrt(sum_of(sums, pieces.first, pieces.last, 0)),
          std::sqrt(sum_of(sums, pieces.first, pieces.last, 1))};
}

}  // namespace lockstep
