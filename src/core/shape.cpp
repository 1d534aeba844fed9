#include "core/shape.h"

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
  for (std::int64_t d : dims_) n *= d;
  return n;
}

std::string Shape::text() const {
  if (dims_.empty()) return "scalar";
  std::string s;
  for (std::size_t i = 0; i < dims_.size(); ++i) s += (i == 0 ? "" : "x") + std::to_string(dims_[i]);
  return s;
}

}  // namespace lockstep
