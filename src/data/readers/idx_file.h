#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/digest.h"
#include "core/file.h"
#include "data/guarded_map.h"
#include "data/readers/idx.h"

namespace lockstep {

/// How samples of files that are not held in memory come in.
enum class FileAccess {
  map,  ///< the file is mapped; ranks of a host share its pages
  read  ///< each sample is read when it is asked for
};

/// One plain IDX file of which the header is known and the values stay where they are. Samples lie along the
/// first extent. Read-only, shared by threads.
class IdxFile {
 public:
  /// Errors of the header as in read_idx(). InputError too where the file is packed.
  IdxFile(const std::string& path, const std::string& key, FileAccess access);

  const IdxArray& header() const noexcept { return header_; }  ///< without data
  std::int64_t samples() const noexcept { return header_.dims[0]; }
  std::size_t sample_bytes() const noexcept { return sample_bytes_; }
  std::uint64_t file_bytes() const noexcept { return size_; }

  /// The values of a sample as the file holds them, big-endian, in place; empty unless it is mapped.
  std::span<const std::byte> view(std::int64_t sample) const noexcept;
  /// The same, copied to `out` (sample_bytes()). InputError that names the file and the sample where it can
  /// not be read.
  void read(std::int64_t sample, std::span<std::byte> out) const;
  /// Throws InputError that names the file where it is shorter than it was, or a page of it was lost.
  void check() const;
  /// Adds size and header to a digest.
  void add_identity(Sha256& hash) const;
  /// Copies `out.size()` bytes of the values from byte `at` on.
  void read_bytes(std::uint64_t at, std::span<std::byte> out) const;
  std::uint64_t data_bytes() const noexcept { return size_ - header_bytes_; }

 private:
  [[noreturn]] void fail(const std::string& what) const;
  IdxArray header_;
  FileDescriptor file_;
  std::uint64_t size_ = 0;
  std::uint64_t header_bytes_ = 0;
  std::size_t sample_bytes_ = 0;
  GuardedMap map_;
};

}  // namespace lockstep
