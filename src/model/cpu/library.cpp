#include <dnnl.h>
#include <fmt/format.h>

#include "core/error.h"
#include "device/cpu_info.h"
#include "model/cpu/onednn/onednn.h"
#include "model/plan/executor.h"

namespace lockstep {

std::string cpu_library_version() {
  const dnnl_version_t* version = dnnl_version();
  return fmt::format("oneDNN {}.{}.{} ({})", version->major, version->minor, version->patch, version->hash);
}

std::string cpu_bf16_problem() {
  return cpu::bf16_problem();
}

void check_cpu_precision(Precision precision) {
  if (precision == Precision::fp32) return;
  if (precision != Precision::bf16)
    throw ConfigError(
        fmt::format("train.precision = {}: the CPU computes in fp32 and bf16 only; use one of "
                    "them, or a GPU (--device cuda)",
                    name_of(precision)));
  if (const std::string problem = cpu_bf16_problem(); !problem.empty())
    throw ConfigError(
        fmt::format("train.precision = bf16: the processor of {} ({}) has no bfloat16: {}; use "
                    "fp32, or a GPU (--device cuda)",
                    host_name(), cpu_info().model, problem));
}

}  // namespace lockstep
