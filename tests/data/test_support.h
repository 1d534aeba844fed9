#pragma once

#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>
#include <zlib.h>

#include "core/error.h"
#include "data/memory_dataset.h"
#include "support/temp_dir.h"

namespace lockstep::test {

/// The message of the Error that `body` throws, "" when it throws none. Other exceptions pass through and
/// fail the test.
template <class Body>
std::string error_of(Body body) {
  try {
    body();
  } catch (const Error& e) {
    return e.code() == ExitCode::input ? e.what() : std::string("not an input error: ") + e.what();
  }
  return "";
}

/// Creates a file anew. Overwriting one in place is slow: file systems flush what replaces old content.
inline void put_file(const std::string& path, const std::string& bytes) {
  std::filesystem::remove(path);
  write_file_bytes(path, bytes);
}

/// A file as IDX: 00 00 type ndim, big-endian extents, data as given.
inline std::string idx_bytes(std::uint8_t type, const std::vector<std::uint32_t>& dims,
                             const std::string& data) {
  std::string out{'\0', '\0', static_cast<char>(type), static_cast<char>(dims.size())};
  for (const std::uint32_t d : dims) {
    for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(d >> shift & 255);
  }
  return out + data;
}

/// One gzip member.
inline std::string gzip_bytes(const std::string& content) {
  z_stream z{};
  if (deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    throw std::runtime_error("zlib");
  std::string out(deflateBound(&z, content.size()), '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  z.avail_in = static_cast<uInt>(content.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  const int code = deflate(&z, Z_FINISH);
  out.resize(z.total_out);
  deflateEnd(&z);
  if (code != Z_STREAM_END) throw std::runtime_error("zlib");
  return out;
}

/// `width` targets a sample and an input that is 0.
inline MemoryDataset targets_only(std::int64_t width, std::vector<float> values) {
  MemoryContent content;
  content.file = "t";
  content.sample_shape = Shape{1};
  content.samples = static_cast<std::int64_t>(values.size()) / width;
  content.floats.assign(static_cast<std::size_t>(content.samples), 0.0f);
  content.target_width = width;
  content.targets = std::move(values);
  return MemoryDataset(std::move(content));
}

/// Bytes 0, 1, 2, … modulo 251.
inline std::string counting_bytes(std::size_t n) {
  std::string out(n, '\0');
  for (std::size_t i = 0; i < n; ++i) out[i] = static_cast<char>(i % 251);
  return out;
}

}  // namespace lockstep::test
