#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/range.h"
#include "model/graph/flat_layout.h"

namespace lockstep {

/// The norms of parameters, for rules that need them (rules::Need::norms). Each trained parameter is cut into
/// pieces at the edges of the blocks of core/numerics/tree.h, so that a piece lies in one shard. Of a piece
/// there are two sums of squares in float64, eight accumulators over every eighth element and then along a
/// tree; those of a parameter's pieces are added along the canonical tree. So the bits depend on nothing but
/// the layout.
class ParameterNorms {
 public:
  /// `segments`: ascending.
  ParameterNorms(std::span<const FlatSegment> segments, std::int64_t elements);

  struct Piece {
    Range range;
    int segment;  ///< place in `segments`
  };
  /// Ascending, those of a segment one behind the other.
  std::span<const Piece> pieces() const { return pieces_; }
  /// Numbers of the pieces in `range`, which begins and ends at edges of blocks or at the end of the buffer.
  struct Numbers {
    std::size_t first, last;
  };
  Numbers pieces_in(Range range) const;
  /// Two a piece: sums[2 k] of the parameter's squares in piece k, and sums[2 k + 1] of what is measured.
  std::size_t sums() const { return 2 * pieces_.size(); }
  /// Numbers of the sums in these ranges of whole blocks.
  std::vector<std::int64_t> sums_in(std::span<const Range> ranges) const;

  struct Norms {
    double parameter, measured;
  };
  /// Of the segment, from all sums. It is one that is trained.
  Norms norms(int segment, std::span<const double> sums) const;

 private:
  std::vector<Piece> pieces_;
  std::vector<Numbers> of_segment_;
};

}  // namespace lockstep
