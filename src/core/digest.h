#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/shape.h"

struct evp_md_ctx_st;  // OpenSSL's EVP_MD_CTX

namespace lockstep {

/// SHA-256 (FIPS 180-4) of a stream of bytes. Move-only. A failure of the library is an InternalError.
class Sha256 {
 public:
  using Digest = std::array<std::byte, 32>;

  Sha256();
  void update(std::span<const std::byte> bytes);
  void update(std::string_view text);
  /// Eight bytes, little-endian: for lengths.
  void update_u64(std::uint64_t value);
  /// Ends the stream, once; update() is then an InternalError. May be asked again.
  const Digest& digest();
  /// digest() as 64 lower-case hexadecimal digits.
  std::string hex();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const noexcept;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
  bool ended_ = false;
  Digest digest_{};
};

/// The SHA-256 of `bytes` as 64 lower-case hexadecimal digits.
std::string sha256_hex(std::span<const std::byte> bytes);
std::string sha256_hex(std::string_view text);

/// The digest of a set of named tensors: equal for equal sets, in whatever order they were added. It is
/// SHA-256 over: the text "lockstep tensors 1", the count of tensors, and for each tensor in ascending order
/// of its name's bytes: the length of the name, the name, and SHA-256 over (length of dtype name, dtype name
/// as in safetensors, rank, every extent, count of data bytes, data bytes). Numbers are 8 bytes,
/// little-endian.
class TensorDigest {
 public:
  /// `bytes` is the row-major data, read before the call returns. A name that was added before, or bytes that
  /// do not fit dtype and shape, are an InternalError.
  void add(const std::string& name, DType dtype, const Shape& shape, std::span<const std::byte> bytes);
  std::size_t size() const noexcept { return tensors_.size(); }
  /// 64 lower-case hexadecimal digits. More tensors may be added afterwards.
  std::string hex() const;

 private:
  std::map<std::string, Sha256::Digest> tensors_;
};

}  // namespace lockstep
