#include "data/readers/idx_shards.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <fmt/format.h>
#include <type_traits>
#include <utility>

#include "core/counted.h"
#include "core/digest.h"
#include "core/error.h"
#include "core/file.h"
#include "core/numerics/philox.h"
#include "data/readers/byte_order.h"
#include "data/readers/idx_answers.h"
#include "data/readers/image_layout.h"
#include "data/readers/shard_names.h"

namespace lockstep {
namespace {

constexpr std::uint64_t block_bytes = std::uint64_t{1} << 16;
constexpr std::uint64_t most_blocks = 1024;
constexpr std::size_t chunk_bytes = std::size_t{1} << 14;

/// Calls each(number of the element within the sample, its value) for all elements of a sample. The value has
/// the type that the file stores.
template <class T, class Each>
void for_each(const IdxFile& file, std::int64_t sample, Each each) {
  std::array<std::byte, chunk_bytes> chunk;
  const std::uint64_t begin = static_cast<std::uint64_t>(sample) * file.sample_bytes();
  for (std::size_t done = 0; done < file.sample_bytes();) {
    const std::size_t bytes = std::min(chunk.size(), file.sample_bytes() - done);
    file.read_bytes(begin + done, std::span(chunk).first(bytes));
    for (std::size_t at = 0; at < bytes; at += sizeof(T)) {
      std::array<std::byte, sizeof(T)> native;
      std::reverse_copy(chunk.begin() + at, chunk.begin() + at + sizeof(T), native.begin());
      each((done + at) / sizeof(T), std::bit_cast<T>(native));
    }
    done += bytes;
  }
}

template <class Each>
void for_each_value(const IdxFile& file, std::int64_t sample, Each each) {
  switch (file.header().type) {
    case IdxType::u8:
      return for_each<std::uint8_t>(file, sample, each);
    case IdxType::i8:
      return for_each<std::int8_t>(file, sample, each);
    case IdxType::i16:
      return for_each<std::int16_t>(file, sample, each);
    case IdxType::i32:
      return for_each<std::int32_t>(file, sample, each);
    case IdxType::f32:
      return for_each<float>(file, sample, each);
    case IdxType::f64:
      return for_each<double>(file, sample, each);
  }
  throw InternalError("an IDX type without values");
}

template <class T>
void store(std::span<std::byte> out, std::size_t place, T value) {
  std::memcpy(out.data() + place * sizeof(T), &value, sizeof(T));
}

void refuse_other_samples(const IdxArray& first, const IdxArray& other) {
  if (other.type == first.type &&
      std::equal(first.dims.begin() + 1, first.dims.end(), other.dims.begin() + 1, other.dims.end()))
    return;
  throw InputError(
      fmt::format("{} is {}, and the first file of the set, {}, is {}: files of one set hold "
                  "samples of one shape and type",
                  other.origin, other.shape_text(), first.origin, first.shape_text()));
}

/// The first values of a file, as read_idx() gives them, to see whether they stand in the right byte order.
IdxArray first_values(const IdxFile& file) {
  constexpr std::uint64_t most = std::uint64_t{1} << 20;
  IdxArray values = file.header();
  values.data.resize(static_cast<std::size_t>(std::min(file.data_bytes(), most)));
  file.read_bytes(0, std::as_writable_bytes(std::span(values.data)));
  const auto width = static_cast<std::ptrdiff_t>(values.element_bytes());
  for (auto at = values.data.begin(); at != values.data.end(); at += width) std::reverse(at, at + width);
  return values;
}

/// One labels file for each file of inputs.
std::vector<std::string> answer_files(const std::vector<std::string>& images, const std::string& images_key,
                                      const std::string& labels, const std::string& labels_key) {
  std::vector<std::string> files;
  if (labels.empty()) {
    for (const std::string& file : images) files.push_back(find_labels(file, images_key, "", labels_key));
    return files;
  }
  files = shard_names(labels, labels_key);
  if (files.size() != images.size())
    throw InputError(fmt::format("{} names {}, and {} names {}: each file needs one of labels", images_key,
                                 counted(static_cast<std::int64_t>(images.size()), "file"), labels_key,
                                 files.size()));
  return files;
}

}  // namespace

const IdxShards::Shard& IdxShards::shard_of(std::int64_t index) const {
  require(index >= 0 && index < samples_, "sample index outside its data set");
  const auto behind = std::upper_bound(shards_.begin(), shards_.end(), index,
                                       [](std::int64_t at, const Shard& shard) { return at < shard.begin; });
  return *(behind - 1);
}

void IdxShards::read(std::size_t field, std::int64_t index, std::span<std::byte> out) const {
  const Shard& shard = shard_of(index);
  const std::int64_t sample = index - shard.begin;
  const Field& f = fields_.at(field);
  require(out.size() == f.bytes(), "a field was read into a buffer of another size");
  if (field != 0) {
    for_each_value(*shard.answers, sample, [&](std::size_t k, auto value) {
      if (f.type == DType::i32)
        store(out, k, static_cast<std::int32_t>(value));
      else
        store(out, k, static_cast<float>(value));
    });
    return;
  }
  if (f.type == DType::u8 && !last_) return shard.inputs.read(sample, out);
  const auto channels = static_cast<std::size_t>(last_ ? f.shape[0] : 1);
  const std::size_t pixels = static_cast<std::size_t>(f.elements()) / channels;
  for_each_value(shard.inputs, sample, [&](std::size_t k, auto value) {
    const std::size_t place = k % channels * pixels + k / channels;
    if (f.type == DType::u8) {
      store(out, place, static_cast<std::uint8_t>(value));
      return;
    }
    const auto number = static_cast<float>(value);
    if (!std::isfinite(number))
      throw InputError(fmt::format(
          "{}: value number {} is {}: every value must be a finite float32; repair or drop the sample",
          where(index), k, std::isnan(number) ? "NaN" : "infinite"));
    store(out, place, number);
  });
}

std::span<const std::byte> IdxShards::view(std::size_t field, std::int64_t index) const {
  if (field != 0 || last_ || fields_[0].type != DType::u8) return {};
  const Shard& shard = shard_of(index);
  return shard.inputs.view(index - shard.begin);
}

void IdxShards::check(std::span<const std::int64_t> samples) const {
  const Shard* before = nullptr;
  for (const std::int64_t index : samples) {
    if (index < 0) continue;
    const Shard& shard = shard_of(index);
    if (&shard == before) continue;
    before = &shard;
    shard.inputs.check();
    if (shard.answers) shard.answers->check();
  }
}

std::string IdxShards::where(std::int64_t index) const {
  const Shard& shard = shard_of(index);
  return fmt::format("'{}' sample {}", shard.inputs.header().path, index - shard.begin);
}

std::string IdxShards::identity(std::uint64_t seed) const {
  Sha256 hash;
  hash.update("files");
  hash.update_u64(shards_.size());
  std::uint64_t all = 0;
  for (const Shard& shard : shards_) {
    shard.inputs.add_identity(hash);
    all += (shard.inputs.data_bytes() + block_bytes - 1) / block_bytes;
  }
  // Blocks of every file in proportion to its size, at least its first and its last one.
  const PhiloxKey key = random_key(seed, Purpose::split, 0, 2);
  std::vector<std::byte> buffer(static_cast<std::size_t>(block_bytes));
  std::uint64_t number = 0;
  for (const Shard& shard : shards_) {
    const std::uint64_t bytes = shard.inputs.data_bytes();
    const std::uint64_t blocks = (bytes + block_bytes - 1) / block_bytes;
    const std::uint64_t ranges =
        std::min(blocks, std::max<std::uint64_t>(2, most_blocks * blocks / std::max<std::uint64_t>(all, 1)));
    for (std::uint64_t r = 0; r < ranges; ++r, ++number) {
      const std::uint64_t begin = blocks * r / ranges, count = blocks * (r + 1) / ranges - begin;
      std::uint64_t block = begin + random_block(key, number, 0).v[0] % count;
      if (r == 0) block = 0;
      if (r + 1 == ranges) block = blocks - 1;
      const std::uint64_t at = block * block_bytes;
      const auto part = std::span(buffer).first(std::min(block_bytes, bytes - at));
      shard.inputs.read_bytes(at, part);
      hash.update_u64(block);
      hash.update(part);
    }
    shard.inputs.check();
  }
  return hash.hex();
}

OpenedShards open_idx_shards(const std::string& images, const std::string& images_key,
                             const std::string& labels, const std::string& labels_key, LabelUse use,
                             const ImageOptions& options, FileAccess access, std::uint64_t seed) {
  const std::vector<std::string> files = shard_names(images, images_key);
  const bool answers = use != LabelUse::none;
  std::vector<std::string> answer_names;
  if (answers) answer_names = answer_files(files, images_key, labels, labels_key);
  constexpr std::uint64_t others = 128;  // MPI, checkpoints, the files of another split
  allow_open_files(others + 4 * files.size());

  OpenedShards opened;
  MemoryContent& content = opened.content;
  const auto set = std::make_shared<IdxShards>();
  for (std::size_t i = 0; i < files.size(); ++i) {
    IdxShards::Shard shard{IdxFile(files[i], images_key, access), nullptr, set->samples_};
    const IdxArray& header = shard.inputs.header();
    if (i == 0) {
      set->last_ = holds_channels_last(header, options);
      look_at_byte_order(first_values(shard.inputs), false, content.doubts);
    } else {
      refuse_other_samples(set->shards_[0].inputs.header(), header);
    }
    MemoryContent part;
    part.file = files[i];
    part.samples = header.dims[0];
    if (answers) {
      read_answers(part, header, answer_names[i], labels_key, use);
      if (i > 0 && part.target_width != content.target_width)
        throw InputError(fmt::format("'{}' has {} a sample, and '{}' has {}", answer_names[i],
                                     counted(part.target_width, "target"), answer_names[0],
                                     content.target_width));
      content.target_width = part.target_width;
      content.labels.insert(content.labels.end(), part.labels.begin(), part.labels.end());
      content.targets.insert(content.targets.end(), part.targets.begin(), part.targets.end());
      std::move(part.doubts.begin(), part.doubts.end(), std::back_inserter(content.doubts));
      shard.answers = std::make_shared<IdxFile>(answer_names[i], labels_key, access);
    }
    content.parts.push_back({files[i], answers ? answer_names[i] : "", set->samples_});
    set->samples_ += header.dims[0];
    set->sizes_.push_back(header.dims[0]);
    set->shards_.push_back(std::move(shard));
  }

  const IdxArray& first = set->shards_[0].inputs.header();
  content.file = images;
  content.labels_file = labels;
  content.samples = set->samples_;
  content.sample_shape = sample_shape_of(first, options.shape, set->last_);
  content.stored_as = name_of(first.type);
  content.description =
      fmt::format("{} of {} ({}) in {} '{}'", counted(content.samples, "sample"), content.sample_shape.text(),
                  content.stored_as, counted(static_cast<std::int64_t>(files.size()), "file"), images);
  content.identity = set->identity(seed);
  set->description_ = content.description;
  set->fields_.push_back(
      {input_field, first.type == IdxType::u8 ? DType::u8 : DType::f32, content.sample_shape});
  if (use == LabelUse::classes) set->fields_.push_back({label_field, DType::i32, Shape{}});
  if (use == LabelUse::targets)
    set->fields_.push_back({target_field, DType::f32, Shape{content.target_width}});
  opened.data = set;
  return opened;
}

}  // namespace lockstep
