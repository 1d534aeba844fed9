#include "model/cpu/kernels/kernel.h"

#include <algorithm>

#include "core/error.h"

namespace lockstep::cpu {

void Kernel::export_plain(std::size_t, std::span<const float> stored, std::span<float> plain) const {
  require(stored.size() == plain.size(), "export_plain: the stored form is not plain");
  std::copy(stored.begin(), stored.end(), plain.begin());
}

void Kernel::import_plain(std::size_t, std::span<const float> plain, std::span<float> stored) const {
  require(stored.size() == plain.size(), "import_plain: the stored form is not plain");
  std::copy(plain.begin(), plain.end(), stored.begin());
}

}  // namespace lockstep::cpu
