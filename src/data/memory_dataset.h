#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace lockstep {

/// What a MemoryDataset is made of. Exactly one of bytes and floats holds the inputs; labels and targets are
/// empty where the set has none.
struct MemoryContent {
  std::string description;  ///< "60000 samples of 1x28x28 from 'x.gz'"
  std::string file;         ///< for where(): path of the file that holds the samples
  std::string labels_file;  ///< the file that holds the labels, where it is another one
  std::string stored_as;    ///< element type of the file, where it has one: "u8"
  std::int64_t samples = 0;
  Shape sample_shape;
  std::vector<std::uint8_t> bytes;   ///< (samples, elements)
  std::vector<float> floats;         ///< (samples, elements)
  std::vector<std::int32_t> labels;  ///< (samples)
  std::vector<float> targets;        ///< (samples, target_width)
  std::int64_t target_width = 0;
  std::uint64_t image_file_bytes = 0;  ///< values of an IDX file of inputs as it holds them; 0 for others
  std::vector<std::string> doubts;     ///< what looks wrong in the file, and was taken all the same
  /// Of a set of several files: each of them, in order. Inputs are then not held here.
  struct Part {
    std::string file, labels_file;
    std::int64_t begin = 0;  ///< its first sample in the set
  };
  std::vector<Part> parts;
  std::string identity;             ///< of such a set: SHA-256 by which its inputs are known again
  std::vector<std::int64_t> lines;  ///< (samples) text files: the line on which each sample begins, from 1
};

/// One field of all samples, in memory. Owns its numbers: those of the alternative that fits the field's
/// type.
struct MemoryColumn {
  Field field;
  std::vector<std::uint8_t> bytes;     ///< (samples, elements)
  std::vector<float> floats;           ///< (samples, elements)
  std::vector<std::int32_t> integers;  ///< (samples, elements)
  /// Of a ragged field: where the samples begin, counted in entries of extent 0, and the end of the last. The
  /// numbers then lie one sample behind the other, without padding.
  std::vector<std::int64_t> begins = {};
};

/// A data set that is wholly in memory. Owns its content.
class MemoryDataset final : public Dataset {
 public:
  /// The content as fields "input", and "label" or "target". Sizes that do not fit together are an
  /// InternalError.
  explicit MemoryDataset(MemoryContent content);
  /// Any fields. `lines`, `file`: as in MemoryContent. Sizes that do not fit together are an InternalError.
  MemoryDataset(std::int64_t samples, std::vector<MemoryColumn> columns, std::string description,
                std::string file, std::vector<std::int64_t> lines = {});

  std::int64_t size() const override { return samples_; }
  std::span<const Field> fields() const override { return fields_; }
  void read(std::size_t field, std::int64_t index, std::span<std::byte> out) const override;
  std::span<const std::byte> view(std::size_t field, std::int64_t index) const override;
  std::int64_t length(std::size_t field, std::int64_t index) const override;
  std::string describe() const override { return description_; }
  std::string where(std::int64_t index) const override;

 private:
  void check() const;
  std::int64_t samples_ = 0;
  std::vector<MemoryColumn> columns_;
  std::vector<Field> fields_;
  std::string description_;
  std::string file_;
  std::vector<std::int64_t> lines_;
};

/// Where a label stands, for messages: "'a.csv' line 17", "'labels.idx' sample 3".
std::string place_of_label(const MemoryContent& content, std::int64_t index);

/// Throws InputError that names the file, sample or line, and label of the first label that is not below
/// `classes`.
void refuse_labels_outside(const MemoryContent& content, std::int64_t classes);

/// Throws InputError that names the first sample and element of `values` (samples x width) that is NaN or
/// infinite. `what`: "value" or "target".
void refuse_non_finite(const MemoryContent& content, std::span<const float> values, std::int64_t width,
                       const char* what);

}  // namespace lockstep
