#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/shape.h"
#include "data/memory_dataset.h"

namespace lockstep {

/// Element types of IDX, with the codes of the format (Y. LeCun, "The MNIST database", file formats).
enum class IdxType : std::uint8_t { u8 = 0x08, i8 = 0x09, i16 = 0x0B, i32 = 0x0C, f32 = 0x0D, f64 = 0x0E };
const char* name_of(IdxType type);

/// One IDX file: 00 00 type ndim, ndim big-endian u32 extents, row-major big-endian data; plain or gzip.
struct IdxArray {
  std::string origin;  ///< "'x.gz' (data.train)", for messages
  std::string path;
  IdxType type = IdxType::u8;
  std::vector<std::int64_t> dims;  ///< 1 to 8 extents, all at least 1
  std::vector<std::uint8_t> data;  ///< elements in the byte order of this machine

  std::int64_t elements() const;
  std::size_t element_bytes() const;  ///< of one value
  /// Element number `i` as float64; exact for every type.
  double value(std::int64_t i) const;
  std::string shape_text() const;  ///< "60000x28x28 u8"
};

/// Reads a file whose header and size must agree to the byte. `key` names the config key in messages.
/// Everything else is an InputError: wrong magic (with what the file looks like), unknown type, extents of 0,
/// a product of extents that overflows or that the file cannot hold, too few bytes, too many.
IdxArray read_idx(const std::string& path, const std::string& key);

/// The header of a plain file alone, `data` empty; errors as above, and an InputError for a packed file.
IdxArray read_idx_header(const std::string& path, const std::string& key);

/// The values of an array. What float32 cannot hold becomes infinite.
std::vector<float> to_floats(const IdxArray& array);

/// What becomes of the file of labels.
enum class LabelUse { classes, targets, none };

/// In which order a file holds the axes of an image.
enum class AxisOrder { unsaid, channels_first, channels_last };

/// How samples are made of the arrays of an images file.
struct ImageOptions {
  std::optional<Shape> shape;           ///< data.shape: reshapes the samples
  AxisOrder order = AxisOrder::unsaid;  ///< data.layout
  std::optional<Shape> known;           ///< the samples of the training file, where that has been read
};

/// The shape of one sample of an images file. `last`: its channels stand last. InputError, ConfigError: a
/// shape that needs data.shape, or does not fit it.
Shape sample_shape_of(const IdxArray& images, const std::optional<Shape>& wanted, bool last);

/// Builds a data set from an images file (n, h, w) -> 1 x h x w, (n, c, h, w) or (n, h, w, c) -> c x h x w,
/// (n, f) -> f, (n) -> 1, and a labels file (n) of whole numbers for classes, (n) or (n, k) of any type for
/// targets. An empty `labels` stands for default_labels_path(images). Counts that differ, labels that are
/// negative or no whole numbers, NaN and infinity, and values that were written in the wrong byte order are
/// InputErrors; whether labels are below the class count is not looked at here.
MemoryContent load_idx(const std::string& images, const std::string& images_key, const std::string& labels,
                       const std::string& labels_key, LabelUse use, const ImageOptions& options);

}  // namespace lockstep
