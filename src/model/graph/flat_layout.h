#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/range.h"
#include "core/shape.h"

namespace lockstep {

/// One parameter or running statistic in the flat buffers. The flat parameters, the flat gradient and every
/// flat optimizer state share one layout: segments lie in the order in which gradients become ready (last op
/// first). A statistic's segment holds the running value in the parameters, and the sum over slices of valid
/// rows times batch value in the gradient; the optimizer moves it by momentum instead of by a gradient.
///
/// A device may store a tensor otherwise than plain row-major (blocked, padded): `storage` counts elements as
/// stored, padding holds zeros, and Executor::export_plain / import_plain convert.
struct FlatSegment {
  enum class Kind { parameter, statistic };
  Kind kind = Kind::parameter;
  int index = -1;  ///< into Graph::parameters or Graph::statistics
  std::string name;
  Shape shape;            ///< plain
  Range storage;          ///< in the flat buffer, begin a multiple of 16
  double momentum = 0;    ///< of a statistic
  bool trainable = true;  ///< of a parameter, as is the next: see Parameter
  bool decays = true;
  /// Whether an optimizer moves it by its gradient, and keeps state for it.
  bool is_trained() const { return kind == Kind::parameter && trainable; }
};

struct FlatLayout {
  std::vector<FlatSegment> segments;
  std::int64_t elements = 0;  ///< of a flat buffer, a multiple of 16, padding between segments included
};

}  // namespace lockstep
