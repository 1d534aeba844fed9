#pragma once

#include <memory>

#include "model/cpu/kernels/kernel.h"

namespace lockstep::cpu {

/// The kernel of a dense layer in bf16. Its input and output may each be stored in float32 or bfloat16.
/// Throws DeviceError where oneDNN has none.
std::unique_ptr<Kernel> make_dense_bf16(const KernelSpec& spec);

}  // namespace lockstep::cpu
