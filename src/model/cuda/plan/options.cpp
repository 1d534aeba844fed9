#include "model/cuda/plan/options.h"

#include "core/error.h"

namespace lockstep::cuda {

Precision precision_of(const std::string& text) {
  if (text == "fp32") return Precision::fp32;
  if (text == "tf32") return Precision::tf32;
  if (text == "bf16") return Precision::bf16;
  if (text == "fp16") return Precision::fp16;
  throw ConfigError("train.precision: there is no precision \"" + text + "\" (fp32, tf32, bf16, fp16)");
}

}  // namespace lockstep::cuda
