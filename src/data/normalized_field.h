#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/numerics/field_transform.h"
#include "data/field_reader.h"
#include "data/normalize.h"

namespace lockstep {

/// The field "input" of a data set, normalised and, where that is asked for, augmented. Holds, for bytes, the
/// image of each of the 256 values per group, so that no arithmetic is left. The bits do not depend on
/// whether the set stores bytes or floats.
class NormalizedField final : public FieldReader {
 public:
  /// `data` must outlive the reader. Augmentation is for images (C, H, W), and its crops must not lie wholly
  /// outside: InternalError otherwise. InputError: inputs that the normalisation does not fit.
  NormalizedField(const Dataset& data, const Normalizer& normalizer, const Augmentation& augmentation = {});

  const Field& field() const override { return field_; }
  std::size_t scratch_bytes() const override;
  std::int64_t read(const SampleKey& key, std::span<std::byte> scratch,
                    std::span<std::byte> out) const override;

  /// Writes sample `index`, normalised, to `out` (elements of a sample). `scratch`: as below, or empty of a
  /// set that holds its samples in memory.
  void read(std::int64_t index, std::span<float> out, std::span<float> scratch = {}) const;
  /// The same of an image (C, H, W) that is moved, by less than its size, and normalised in one go. Pixels
  /// from outside it are what a raw 0 becomes. `scratch`: as large as `out`, for sets that give their samples
  /// in place neither as bytes nor as floats.
  void read(std::int64_t index, const ImageMove& move, std::span<float> scratch, std::span<float> out) const;
  /// What an executor does to the field where it takes it in: then device_field() is what the loader gives.
  FieldTransform on_device() const;
  /// What a raw 0 becomes, per group.
  std::vector<float> padding() const;
  bool is_bytes() const { return column_.is_bytes(); }

 private:
  void normalize(std::span<float> values) const;
  template <class Raw, class Map>
  void move_channels(const ImageMove& move, const Raw* from, float* out, Map map_of_channel) const;

  FieldColumn column_;
  Normalizer normalizer_;
  Augmentation augmentation_;
  Field field_;
  std::size_t elements_;
  std::size_t per_group_;
  std::vector<float> table_;  // (groups, 256); (1, 256) where all groups share one function
  bool shared_table_ = false;
};

/// The field "target" of a data set, scaled where the normaliser scales targets. `data` must outlive it.
std::shared_ptr<const FieldReader> scaled_targets(const Dataset& data, const Normalizer& normalizer);

/// How a data set's fields become a batch.
struct BatchFields {
  /// By field that is wanted; null where the data set has none of that name.
  std::vector<std::shared_ptr<const FieldReader>> readers;
  /// By field: what the executor does to it (ExecutorOptions::transforms).
  std::vector<FieldTransform> transforms;
};

/// Readers of the fields that a graph wants (Graph::fields): inputs normalised and augmented, targets scaled,
/// the others as they are stored. `on_device`: images are normalised and augmented by the executor. The set
/// must outlive the readers. InputError that names the field where the data set has it in another shape.
BatchFields batch_fields(std::span<const Field> wanted, const Dataset& data, const Normalizer& normalizer,
                         const Augmentation& augmentation = {}, bool on_device = false);

}  // namespace lockstep
