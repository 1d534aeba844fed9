#pragma once

#include <vector>

#include "core/numerics/augmentation.h"

namespace lockstep {

/// What an executor does to a field of images (C, H, W) where it takes them in, so that the loader need not:
/// the field comes as the data set stores it.
struct FieldTransform {
  Augmentation augmentation = {};
  /// (groups, 256), or (1, 256) for all groups alike: what each byte becomes, for a field that is stored as
  /// bytes. Empty: the loader gives float32 numbers that are normalised already.
  std::vector<float> table = {};
  std::vector<float> padding = {};  ///< (C): what pixels outside an image are; with augmentation

  bool any() const { return augmentation.any() || !table.empty(); }
};

}  // namespace lockstep
