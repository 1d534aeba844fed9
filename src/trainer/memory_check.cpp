#include "trainer/memory_check.h"

#include <algorithm>
#include <fmt/format.h>
#include <unistd.h>

#include "core/error.h"
#include "core/text.h"

namespace lockstep {

double machine_memory() {
  return static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));
}

void check_memory(const Graph& graph, const std::string& key, std::int64_t batch, std::int64_t slices,
                  double memory) {
  // In float64: the products may pass 2^63.
  const auto text = [](double bytes) { return human_count(bytes) + "B"; };
  const double weights = 2.0 * sizeof(float) * static_cast<double>(graph.parameter_count());
  if (weights > memory)
    throw ConfigError(
        fmt::format("model: its {} parameters and their gradient take {}, and this machine has {} of memory: "
                    "make the model smaller",
                    grouped_digits(graph.parameter_count()), text(weights), text(memory)));
  std::int64_t widest = 0;
  for (const auto& value : graph.values) widest = std::max(widest, value.shape.elements());
  const double row = sizeof(float) * (static_cast<double>(graph.shape_of(graph.inputs[0]).elements()) +
                                      static_cast<double>(widest));
  const std::int64_t rows = batch / slices;
  const double activations = static_cast<double>(rows) * row;
  if (weights + activations > memory)
    throw ConfigError(fmt::format(
        "{} = {}: a slice of {} samples takes {} at least, and this machine has {} of memory: lower "
        "it, or raise train.slices, which is {}",
        key, batch, rows, text(activations), text(memory), slices));
}

}  // namespace lockstep
