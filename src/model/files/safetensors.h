#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/digest.h"
#include "core/file.h"
#include "core/shape.h"

namespace lockstep {

// Weight files in the safetensors format (https://huggingface.co/docs/safetensors): u64 little-endian N, N
// bytes of JSON, then raw little-endian row-major data.

/// One tensor of a file.
struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;              ///< no extent is negative; elements() * size_of(dtype) == bytes()
  std::uint64_t begin = 0;  ///< offsets in the data, which follows the header
  std::uint64_t end = 0;
  std::uint64_t bytes() const { return end - begin; }
};

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  ///< sorted by name
  std::map<std::string, std::string> metadata;
  std::uint64_t data_offset = 0;  ///< of the data in the file: 8 + N
};

/// Checks a whole file in memory and reads its header; accepts exactly what the format allows: N at most
/// 100,000,000 and within the file, a JSON object padded with spaces, no name twice, each entry exactly
/// dtype, shape and data_offsets, offsets that match the shape, without holes or overlaps, and that end where
/// the file ends. `path` names the file in messages. Throws InputError with the path, the tensor's name and
/// what is wrong. Never reads outside `file`, whatever it holds.
SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const std::string& path);

/// A file that has passed parse_safetensors, mapped into memory. Cheap to copy: copies share the mapping,
/// which stays valid after the file was renamed or removed.
class SafetensorsFile {
 public:
  /// Throws InputError: missing, unreadable, a directory, or not a valid file.
  static SafetensorsFile open(const std::string& path);

  const std::string& path() const { return path_; }
  /// Sorted by name.
  const std::vector<TensorInfo>& tensors() const { return header_->tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_->metadata; }
  /// Null when there is none of that name.
  const TensorInfo* find(std::string_view name) const;
  /// The bytes of a tensor of this file; not aligned to its dtype.
  std::span<const std::byte> bytes(const TensorInfo& tensor) const;
  /// Copies a tensor out; out.size() must be shape.elements(). Throws InputError when it is missing, is not
  /// F32, or has another shape (with both shapes).
  void read_f32(const std::string& name, const Shape& shape, std::span<float> out) const;
  /// Throws InputError unless the file holds exactly these names; says which are missing and which are too
  /// many.
  void check_names(const std::vector<std::string>& expected) const;

 private:
  std::string path_;
  std::shared_ptr<const MappedFile> file_;
  std::shared_ptr<const SafetensorsHeader> header_;
};

/// A tensor to be written. The data is not copied: it must outlive the call.
struct TensorView {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::span<const std::byte> data;  ///< plain row-major, shape.elements() * size_of(dtype) bytes
};
/// A float32 tensor to be written.
TensorView view_of(std::string name, Shape shape, std::span<const float> data);

/// What was written.
struct WrittenFile {
  std::uint64_t bytes = 0;
  std::string sha256;  ///< 64 hex digits, of the whole file
};

/// Bytes that write_safetensors will write, header included.
std::uint64_t safetensors_bytes(const std::vector<TensorView>& tensors,
                                const std::map<std::string, std::string>& metadata = {});

/// Writes a file that appears under `path` whole or not at all, and is on disk when the call returns: tensors
/// sorted by name, header padded with spaces to 8. The same tensors and metadata give the same bytes. Throws
/// InputError when the file cannot be written; InternalError for a name twice or a size that does not match
/// the shape.
/// `before_rename` as for write_file_atomic.
WrittenFile write_safetensors(const std::string& path, std::vector<TensorView> tensors,
                              const std::map<std::string, std::string>& metadata = {},
                              const std::function<void()>& before_rename = {});
/// The same for a `path` that must not exist, without the detour over a temporary name and without making the
/// directory entry durable: for directories that are themselves renamed into place.
WrittenFile write_new_safetensors(const std::string& path, std::vector<TensorView> tensors,
                                  const std::map<std::string, std::string>& metadata = {});

/// The name and shape of an F32 tensor whose data is made while the file is written.
struct TensorEntry {
  std::string name;
  Shape shape;
};
/// The same for tensors that come one after the other: data(i) gives those of entries[i], in ascending order
/// of names, and its bytes are read before the next call.
WrittenFile write_new_safetensors(const std::string& path, const std::vector<TensorEntry>& entries,
                                  const std::map<std::string, std::string>& metadata,
                                  const std::function<std::span<const float>(std::size_t)>& data);
/// Bytes of that file.
std::uint64_t safetensors_bytes(const std::vector<TensorEntry>& entries,
                                const std::map<std::string, std::string>& metadata);

/// `metadata` and "digest", which is what `lockstep digest` prints for these tensors.
std::map<std::string, std::string> with_digest(std::map<std::string, std::string> metadata,
                                               const std::vector<TensorView>& tensors);
/// Throws InputError when the tensors of a file that was written with_digest() are others now. Any other file
/// passes.
void check_digest(const SafetensorsFile& file);

/// Adds every tensor, in order of name: name, dtype, shape, bytes. The one definition of what `lockstep
/// digest` covers.
void add_to_digest(TensorDigest& digest, const SafetensorsFile& file);

}  // namespace lockstep
