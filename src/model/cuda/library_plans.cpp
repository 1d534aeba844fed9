#include "model/cuda/library_plans.h"

#include <fmt/format.h>

namespace lockstep::cuda {

std::string describe(DensePass pass, const DenseShape& s) {
  static constexpr const char* names[] = {"forward",           "forward_relu", "forward_bias",
                                          "forward_bias_relu", "data",         "weights"};
  return fmt::format("dense {} {} rows {} to {}", names[static_cast<int>(pass)], s.rows, s.in, s.out);
}

}  // namespace lockstep::cuda
