#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/memory_dataset.h"
#include "data/readers/idx_file.h"

namespace lockstep {

struct OpenedShards;

/// A set of plain IDX files of samples of one shape and type, each with a file of labels or targets: what
/// load_idx() makes of one file, for data beyond memory. Samples and answers stay in the files, mapped or
/// read when they are asked for; what is held grows with the number of files alone.
class IdxShards final : public Dataset {
 public:
  /// What is known of one file once it is open.
  struct Shard {
    IdxFile inputs;
    std::shared_ptr<const IdxFile> answers;  ///< null where the set has none
    std::int64_t begin = 0;                  ///< its first sample in the set
  };

  std::int64_t size() const override { return samples_; }
  std::span<const Field> fields() const override { return fields_; }
  /// NaN, infinity and values beyond float32 among the inputs are an InputError that names file and sample.
  void read(std::size_t field, std::int64_t index, std::span<std::byte> out) const override;
  std::span<const std::byte> view(std::size_t field, std::int64_t index) const override;
  std::span<const std::int64_t> shards() const override { return sizes_; }
  void check(std::span<const std::int64_t> samples) const override;
  std::string describe() const override { return description_; }
  std::string where(std::int64_t index) const override;

 private:
  friend OpenedShards open_idx_shards(const std::string&, const std::string&, const std::string&,
                                      const std::string&, LabelUse, const ImageOptions&, FileAccess,
                                      std::uint64_t);
  const Shard& shard_of(std::int64_t index) const;
  std::string identity(std::uint64_t seed) const;
  std::int64_t samples_ = 0;
  std::vector<Shard> shards_;
  std::vector<std::int64_t> sizes_;
  std::vector<Field> fields_;
  std::string description_;
  bool last_ = false;  // the files hold channels last
};

struct OpenedShards {
  std::shared_ptr<const Dataset> data;
  /// What the set is known by and described with: all but the inputs. Its answers are held in memory.
  MemoryContent content;
};

/// Opens the files that `images` and `labels` name (shard_names()). Without `labels` each file has its own
/// beside it, by name (find_labels()). Every header and every answer is read and checked as load_idx() does.
/// `seed`: chooses the blocks of inputs by which the set is known again. ConfigError, InputError: as
/// load_idx(), files of another shape or type than the first, and another number of labels files.
OpenedShards open_idx_shards(const std::string& images, const std::string& images_key,
                             const std::string& labels, const std::string& labels_key, LabelUse use,
                             const ImageOptions& options, FileAccess access, std::uint64_t seed);

}  // namespace lockstep
