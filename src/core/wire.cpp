#include "core/wire.h"

#include <cstring>
#include <fmt/format.h>

#include "core/error.h"

namespace lockstep {

namespace {

constexpr std::size_t head_bytes = 1 + sizeof(std::uint64_t);  // the kind, and the number behind it

}  // namespace

void WireReader::refuse(std::string_view what) const {
  throw InternalError(
      fmt::format("what another rank has told is damaged at byte {} of {}: {}", at_, text_.size(), what));
}

std::uint64_t WireReader::take(char kind) {
  if (text_.size() - at_ < head_bytes) refuse("it ends early");
  if (text_[at_] != kind) refuse("a value of another kind stands there");
  std::uint64_t bits = 0;
  std::memcpy(&bits, text_.data() + at_ + 1, sizeof bits);
  at_ += head_bytes;
  return bits;
}

std::string WireReader::take_text() {
  const std::uint64_t size = take(wire_kind::text);
  if (size > text_.size() - at_) refuse("it ends early");
  std::string value(text_.substr(at_, size));
  at_ += size;
  return value;
}

std::size_t WireReader::get_list() {
  const std::uint64_t elements = take(wire_kind::list);
  // An element is one value at least.
  if (elements > (text_.size() - at_) / head_bytes) refuse("it ends early");
  return elements;
}

void WireReader::finish() const {
  if (!at_end()) refuse("more stands there than was asked for");
}

}  // namespace lockstep
