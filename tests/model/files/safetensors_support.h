#pragma once

#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/files/safetensors.h"

namespace lockstep::test {

inline std::string u64(std::uint64_t n) {
  std::string s(8, '\0');
  std::memcpy(s.data(), &n, 8);
  return s;
}

/// A file with this header, as it is, and so many bytes of data.
inline std::string file_of(const std::string& header, std::size_t data_bytes) {
  return u64(header.size()) + header + std::string(data_bytes, '\1');
}

inline SafetensorsHeader parse(const std::string& file) {
  // A heap block of exactly the file's size: the address sanitizer sees every byte read outside it.
  const std::vector<char> exact(file.begin(), file.end());
  return parse_safetensors(std::as_bytes(std::span(exact)), "weights.safetensors");
}

inline std::string refusal(const std::string& file) {
  try {
    parse(file);
  } catch (const InputError& e) {
    return e.what();
  }
  return "accepted";
}

}  // namespace lockstep::test
