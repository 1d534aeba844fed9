#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace lockstep {

/// A data file read from front to back, as it is or, where it begins with gzip's magic bytes (RFC 1952: 1f
/// 8b), decompressed: concatenated members are one content, checksums and lengths are checked, and bytes
/// after the last member are refused. At most what read() asks for is held, so a small file that unpacks to a
/// huge content costs nothing unless it is asked for.
///
/// Every failure is an InputError that names the file: missing, a directory or another special file,
/// unreadable, empty, cut short, damaged.
class InputFile {
 public:
  /// `key`: the config key that named the file, for messages; may be empty.
  InputFile(const std::string& path, const std::string& key);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  /// "'x.gz' (data.train)", for messages.
  const std::string& origin() const noexcept { return origin_; }
  bool compressed() const noexcept;
  /// Bytes of the file as it lies on disk.
  std::uint64_t stored_bytes() const noexcept;
  /// The most bytes that the content can have, known before it is read: exact for a plain file, deflate's
  /// greatest ratio (1032:1, zlib's technical notes) for gzip.
  std::uint64_t most_bytes() const noexcept;

  /// Fills `out` with the next bytes of the content; returns how many, less than out.size() only at its end,
  /// which has then been checked.
  std::size_t read(std::span<std::byte> out);

 private:
  struct State;
  std::string origin_;
  std::unique_ptr<State> state_;
};

/// The whole content as text. Content of more than `most` bytes is refused.
std::string read_all(InputFile& file, std::uint64_t most);

/// Whether bytes could be text of any encoding that agrees with ASCII: no control characters but tabs and
/// line ends.
bool looks_like_text(std::span<const std::byte> head);

/// What the first bytes of a file look like, for messages: "a PNG image", "a CSV file", …; "unknown data"
/// when nothing fits.
std::string guess_kind(std::span<const std::byte> head);

}  // namespace lockstep
