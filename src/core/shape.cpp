#include "core/shape.h"

#include <limits>

#include "core/error.h"

namespace lockstep {

std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::u8:
      return 1;
  }
  throw InternalError("size_of: unknown dtype");
}

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "F32";
    case DType::f64:
      return "F64";
    case DType::i32:
      return "I32";
    case DType::i64:
      return "I64";
    case DType::u8:
      return "U8";
  }
  throw InternalError("name_of: unknown dtype");
}

std::int64_t Shape::elements() const noexcept {
  std::int64_t n = 1;
  bool too_large = false;
  for (const std::int64_t d : dims_) {
    if (d == 0) return 0;
    too_large = __builtin_mul_overflow(n, d, &n) || too_large;
  }
  return too_large ? std::numeric_limits<std::int64_t>::max() : n;
}

std::string Shape::text() const {
  if (dims_.empty()) return "scalar";
  std::string s;
  for (const std::int64_t extent : dims_) {
    if (!s.empty()) s += 'x';
    s += std::to_string(extent);
  }
  return s;
}

}  // namespace lockstep
