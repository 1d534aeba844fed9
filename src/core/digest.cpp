#include "core/digest.h"

#include <openssl/evp.h>

#include "core/error.h"

namespace lockstep {

void Sha256::Free::operator()(evp_md_ctx_st* context) const noexcept {
  EVP_MD_CTX_free(context);
}

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  require(context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1,
          "Sha256: OpenSSL offers no SHA-256");
}

void Sha256::update(std::span<const std::byte> bytes) {
  require(!ended_, "Sha256: update after the end");
  if (bytes.empty()) return;
  require(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1, "Sha256: update failed");
}

void Sha256::update(std::string_view text) {
  update(std::as_bytes(std::span(text.data(), text.size())));
}

void Sha256::update_u64(std::uint64_t value) {
  std::array<std::byte, 8> bytes;
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(value >> (8 * i) & 0xff);
  update(bytes);
}

const Sha256::Digest& Sha256::digest() {
  if (!ended_) {
    unsigned size = 0;
    const int ok =
        EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(digest_.data()), &size);
    require(ok == 1 && size == digest_.size(), "Sha256: the end failed");
    ended_ = true;
  }
  return digest_;
}

std::string Sha256::hex() {
  static constexpr char digits[] = "0123456789abcdef";
  std::string out;
  for (const std::byte b : digest()) {
    out += digits[std::to_integer<unsigned>(b) >> 4];
    out += digits[std::to_integer<unsigned>(b) & 15];
  }
  return out;
}

std::string sha256_hex(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.hex();
}

std::string sha256_hex(std::string_view text) {
  return sha256_hex(std::as_bytes(std::span(text.data(), text.size())));
}

void TensorDigest::add(const std::string& name, DType dtype, const Shape& shape,
                       std::span<const std::byte> bytes) {
  require(bytes.size() == static_cast<std::size_t>(shape.elements()) * size_of(dtype),
          "TensorDigest: the bytes do not fit the shape");
  const std::string_view type = name_of(dtype);
  Sha256 hash;
  hash.update_u64(type.size());
  hash.update(type);
  hash.update_u64(shape.rank());
  for (const std::int64_t extent : shape) hash.update_u64(static_cast<std::uint64_t>(extent));
  hash.update_u64(bytes.size());
  hash.update(bytes);
  require(tensors_.emplace(name, hash.digest()).second, "TensorDigest: a tensor was added twice");
}

std::string TensorDigest::hex() const {
  Sha256 hash;
  hash.update("lockstep tensors 1");
  hash.update_u64(tensors_.size());
  for (const auto& [name, digest] : tensors_) {
    hash.update_u64(name.size());
    hash.update(name);
    hash.update(digest);
  }
  return hash.hex();
}

}  // namespace lockstep
