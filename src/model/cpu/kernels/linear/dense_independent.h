#pragma once

#include <memory>

#include "model/cpu/kernels/kernel.h"

namespace lockstep::cpu {

/// A dense layer for inference (KernelSpec::independent): each output is one chain of float32 additions, the
/// inputs in ascending order and then the bias, whatever the number of rows. `stored`: the layer's ordinary
/// kernel, which says how its weights are stored.
std::unique_ptr<Kernel> make_independent_dense(const KernelSpec& spec, std::unique_ptr<Kernel> stored);

}  // namespace lockstep::cpu
