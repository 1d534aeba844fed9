#include "trainer/config/slices.h"

#include <algorithm>
#include <fmt/format.h>
#include <numeric>
#include <variant>
#include <vector>

#include "core/counted.h"
#include "core/error.h"

namespace lockstep {
namespace {

constexpr std::int64_t fewest_values =
    4;  // of a channel: with two, batch norm keeps no more than their order
constexpr std::int64_t ample_rows = 16;
constexpr std::int64_t ranks_served = 4;
constexpr std::int64_t most_slices = 128;

/// What slices must divide.
std::int64_t common_batch(const Config& config) {
  const Config::Train& t = config.train;
  return t.eval_batch > 0 ? std::gcd(t.global_batch, t.eval_batch) : t.global_batch;
}

/// Values a channel that a full slice has of the batch norm that sees the fewest; a large number without one.
std::int64_t values_of(std::int64_t rows, const std::optional<FewestNormValues>& norm) {
  return norm ? rows * norm->per_row : fewest_values;
}

}  // namespace

std::optional<FewestNormValues> fewest_norm_values(const Graph& graph) {
  std::optional<FewestNormValues> fewest;
  for (const OpNode& node : graph.nodes) {
    if (!std::holds_alternative<BatchNormAttrs>(node.attrs)) continue;
    const Shape& input = graph.shape_of(node.inputs.at(0));
    const std::int64_t per_row = input.elements() / input.dims().at(0);
    if (!fewest || per_row < fewest->per_row) fewest = {node.name, per_row};
  }
  return fewest;
}

std::int64_t resolve_slices(const Config& config, const Graph& graph, const std::string& device,
                            std::int64_t samples) {
  if (config.train.slices > 0) return config.train.slices;
  const std::int64_t batch = config.train.global_batch, common = common_batch(config);
  const std::optional<FewestNormValues> norm = fewest_norm_values(graph);
  const std::int64_t last = samples % batch;
  const bool last_counts = norm && norm->per_row == 1 && last > 1;  // a last sample alone is so in any slices
  const auto suits = [&](std::int64_t slices) {
    return common % slices == 0 && values_of(std::min(batch, samples) / slices, norm) >= fewest_values &&
           (!last_counts || last >= 2 * slices);
  };
  if (device == "cpu" && !norm)
    for (const std::int64_t slices : {8, 4})
      if (suits(slices) && batch / slices >= ample_rows) return slices;
  for (std::int64_t slices = ranks_served; slices <= std::min(common, most_slices); ++slices)
    if (suits(slices)) return slices;
  for (const std::int64_t slices : {3, 2})
    if (suits(slices)) return slices;
  return 1;
}

void check_enough_slices(const Config& config, const Graph& graph, int ranks) {
  const std::int64_t slices = config.train.slices, batch = config.train.global_batch;
  if (ranks <= slices) return;
  const std::int64_t common = common_batch(config);
  const std::optional<FewestNormValues> norm = fewest_norm_values(graph);
  std::vector<std::int64_t> would_do;
  for (std::int64_t s = ranks; s <= common && would_do.size() < 3; ++s)
    if (common % s == 0 && values_of(batch / s, norm) > 1) would_do.push_back(s);
  const std::string start = fmt::format("there are more ranks ({}) than slices ({}): start at most {}", ranks,
                                        slices, counted(slices, "rank"));
  if (would_do.empty())
    throw ConfigError(fmt::format(
        "{}, or give a larger train.global_batch: no train.slices that suits {} a batch is enough", start,
        counted(batch, "sample")));
  throw ConfigError(fmt::format(
      "{}, or give train.slices: {} would do, and divide{} the batch of {}; this changes the result{}", start,
      fmt::join(would_do, ", "), would_do.size() == 1 ? "s" : "", batch,
      config.run.resume ? ", so a resume needs --allow-slices-change too" : ""));
}

std::string norm_remark(const Config& config, const Graph& graph, std::int64_t samples, bool kept) {
  const std::optional<FewestNormValues> norm = fewest_norm_values(graph);
  if (!norm || norm->per_row > 1) return "";
  const std::int64_t batch = config.train.global_batch, slices = config.train.slices;
  // Of a batch of r samples each slice has floor(r / S) or one more.
  const std::int64_t whole = std::min(batch, samples);
  const std::int64_t last = samples % batch;
  const std::string sees = fmt::format("batch norm \"{}\" sees one value a channel", norm->layer);
  constexpr const char* so = "it gives 0 for it, and the layers before it learn nothing from it";
  if (whole <= slices) {
    Config unstated = config;
    unstated.train.slices = 0;
    const std::int64_t better = resolve_slices(unstated, graph, "cpu", samples);
    const std::string text =
        fmt::format("train.slices: a batch of {} in {}: {} in each; {}; give {}a larger train.global_batch",
                    whole, counted(slices, "slice"), sees, so,
                    better < slices ? fmt::format("train.slices = {} or ", better) : "");
    if (kept) return text;
    throw ConfigError(text);
  }
  const bool every = whole < 2 * slices;
  const std::int64_t size = every ? whole : last;
  if (size == 0 || size >= 2 * slices) return "";
  Config unstated = config;
  unstated.train.slices = 0;
  const std::int64_t better = resolve_slices(unstated, graph, "cpu", samples);
  const std::string fewer =
      better < slices && size >= 2 * better ? fmt::format("train.slices = {} is sound, and ", better) : "";
  const std::int64_t lonely = size <= slices ? size : 2 * slices - size;
  return fmt::format("{} has {} in {}: {} in {} of them; {}; {}",
                     every ? "every batch" : "the last batch of each epoch", counted(size, "sample"),
                     counted(slices, "slice"), sees, lonely, so,
                     every ? "give fewer train.slices"
                           : fmt::format("{}data.limit = {} leaves that batch out", fewer, samples - last));
}

}  // namespace lockstep
