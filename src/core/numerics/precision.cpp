#include "core/numerics/precision.h"

#include "core/error.h"

namespace lockstep {

Precision precision_of(const std::string& text) {
  for (const Precision precision : {Precision::fp32, Precision::tf32, Precision::bf16, Precision::fp16})
    if (text == name_of(precision)) return precision;
  throw ConfigError("train.precision: there is no precision \"" + text + "\" (fp32, tf32, bf16, fp16)");
}

const char* name_of(Precision precision) {
  switch (precision) {
    case Precision::fp32:
      return "fp32";
    case Precision::tf32:
      return "tf32";
    case Precision::bf16:
      return "bf16";
    case Precision::fp16:
      return "fp16";
  }
  return "";
}

}  // namespace lockstep
