#include "trainer/run/memory_check.h"

#include <algorithm>
#include <fmt/format.h>
#include <limits>

#include "core/counted.h"
#include "core/error.h"
#include "core/text.h"

namespace lockstep {

namespace {

std::string text_of(double bytes) {
  return human_count(bytes) + "B";
}

}  // namespace

void check_memory(const Graph& graph, const std::string& key, std::int64_t batch, std::int64_t slices,
                  double memory) {
  // In float64: the products may pass 2^63.
  const double weights = 2.0 * sizeof(float) * static_cast<double>(graph.parameter_count());
  if (weights > memory)
    throw ConfigError(fmt::format(
        "model: its {} parameters and their gradient take {}, and there is {} of memory: make the model "
        "smaller",
        grouped_digits(graph.parameter_count()), text_of(weights), text_of(memory)));
  std::int64_t widest = 0;
  for (const auto& value : graph.values) widest = std::max(widest, value.shape.elements());
  const double row = sizeof(float) * (static_cast<double>(graph.shape_of(graph.inputs[0]).elements()) +
                                      static_cast<double>(widest));
  const std::int64_t rows = batch / slices;
  const double activations = static_cast<double>(rows) * row;
  if (weights + activations > memory)
    throw ConfigError(
        fmt::format("{} = {}: a slice of {} takes {} at least, and there is {} of memory: lower "
                    "it, or raise train.slices, which is {}",
                    key, batch, counted(rows, "sample"), text_of(activations), text_of(memory), slices));
}

void check_evaluation_memory(const Graph& graph, std::int64_t batch, std::int64_t slices, int ranks,
                             std::int64_t samples, double memory) {
  const auto width = static_cast<double>(graph.shape_of(graph.output).elements());
  const double weights = sizeof(float) * static_cast<double>(graph.parameter_count());
  const std::int64_t most_slices = (slices + ranks - 1) / ranks;
  const double rows = static_cast<double>(batch / slices) * static_cast<double>(most_slices);
  const double outputs = sizeof(float) * rows * width;
  constexpr double bytes_of_a_pair = 64;  // a node of the table, and its place in the list that is exchanged
  const double pairs = graph.loss == LossKind::cross_entropy
                           ? bytes_of_a_pair * std::min(width * width, static_cast<double>(samples))
                           : 0;
  if (weights + outputs + pairs <= memory) return;
  throw ConfigError(fmt::format(
      "train.eval_batch = {}: an evaluation takes {} at least, of which {} are the outputs of a batch, {} "
      "numbers a sample, and there is {} of memory: lower train.eval_batch, or the number of outputs",
      batch, text_of(weights + outputs + pairs), text_of(outputs),
      grouped_digits(graph.shape_of(graph.output).elements()), text_of(memory)));
}

}  // namespace lockstep
