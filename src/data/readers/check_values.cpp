#include "data/readers/check_values.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <limits>
#include <optional>
#include <span>

#include "core/error.h"
#include "core/printable.h"

namespace lockstep {
namespace {

constexpr double far_away = 1e6;      // deviations from the mean
constexpr float huge = 1e30f;         // reaches beyond float32 also where the deviation is no small one
constexpr std::size_t most_told = 5;  // columns that a warning names
constexpr std::size_t widest_name = 40;

/// The smallest and the largest raw value of every group of inputs.
struct Extremes {
  std::vector<float> low;
  std::vector<float> high;
};

std::size_t groups_of(const DataInfo& info) {
  return info.normalizer.mean().size();
}

std::size_t per_group(const DataInfo& info) {
  return static_cast<std::size_t>(info.sample_shape.elements()) / groups_of(info);
}

Extremes extremes_of(const Dataset& data, const DataInfo& info) {
  const std::size_t groups = groups_of(info), each = per_group(info);
  Extremes e{std::vector<float>(groups, std::numeric_limits<float>::infinity()),
             std::vector<float>(groups, -std::numeric_limits<float>::infinity())};
  const FieldColumn column(data, input_field);
  if (column.is_bytes()) {
    // A byte cannot be more: that is enough to know that nothing is wrong.
    std::fill(e.low.begin(), e.low.end(), 0.0f);
    std::fill(e.high.begin(), e.high.end(), 255.0f);
    return e;
  }
  std::vector<float> values(groups * each);
  for (std::int64_t i = 0; i < data.size(); ++i) {
    column.read(i, values);
    for (std::size_t k = 0; k < values.size(); ++k) {
      e.low[k / each] = std::min(e.low[k / each], values[k]);
      e.high[k / each] = std::max(e.high[k / each], values[k]);
    }
  }
  return e;
}

/// Whether the normalised value lies within `most`; a NaN does not.
bool within(const Normalizer& n, float value, std::size_t group, double most) {
  return std::abs(static_cast<double>(n.normalized(static_cast<double>(value), group))) <= most;
}

struct Place {
  std::int64_t sample;
  std::size_t element;
  float value;
};

/// The first input whose normalised value lies beyond `most`.
std::optional<Place> first_beyond(const Dataset& data, const DataInfo& info, double most) {
  if (info.normalizer.kind() != Normalizer::Kind::standard || data.size() == 0) return std::nullopt;
  const Extremes e = extremes_of(data, info);
  bool all = true;
  for (std::size_t g = 0; g < e.low.size(); ++g)
    all = all && within(info.normalizer, e.low[g], g, most) && within(info.normalizer, e.high[g], g, most);
  if (all) return std::nullopt;
  const std::size_t each = per_group(info);
  std::vector<float> values(static_cast<std::size_t>(info.sample_shape.elements()));
  const FieldColumn column(data, input_field);
  for (std::int64_t i = 0; i < data.size(); ++i) {
    column.read(i, values);
    for (std::size_t k = 0; k < values.size(); ++k)
      if (!within(info.normalizer, values[k], k / each, most)) return Place{i, k, values[k]};
  }
  return std::nullopt;
}

std::string column_text(const DataInfo& info, std::int64_t column) {
  const std::string& name = info.csv.columns[static_cast<std::size_t>(column)];
  return info.csv.header && !name.empty() ? fmt::format("column '{}'", printable(name, widest_name))
                                          : fmt::format("column number {} (from 0)", column);
}

bool is_feature(const DataInfo& info, std::int64_t column) {
  const auto holds = [column](const std::vector<std::int64_t>& columns) {
    return std::find(columns.begin(), columns.end(), column) != columns.end();
  };
  return !holds(info.csv.label_columns) && !holds(info.csv.dropped_columns);
}

}  // namespace

std::string element_text(const DataInfo& info, std::int64_t element) {
  std::vector<std::int64_t> features;
  for (std::int64_t c = 0; c < static_cast<std::int64_t>(info.csv.columns.size()); ++c)
    if (is_feature(info, c)) features.push_back(c);
  if (static_cast<std::int64_t>(features.size()) == info.sample_shape.elements())
    return column_text(info, features[static_cast<std::size_t>(element)]);
  return fmt::format("value number {} (from 0)", element);
}

void refuse_beyond_float32(const Dataset& data, const DataInfo& info) {
  const Normalizer& n = info.normalizer;
  if (const auto place = first_beyond(data, info, std::numeric_limits<float>::max())) {
    const std::size_t group = place->element / per_group(info);
    throw InputError(fmt::format(
        "{}: {} is {}, and normalised as in the training (mean {:.6g}, deviation {:.6g}) that is beyond the "
        "range of float32: {}. Repair the value, or train without the column or with data.normalize = none",
        data.where(place->sample), element_text(info, static_cast<std::int64_t>(place->element)),
        place->value, n.mean()[group], n.deviation()[group],
        std::abs(place->value) > huge ? "the value is far beyond those of the training data"
                                      : "this column hardly varies in the training data"));
  }
  if (!n.scales_targets() || field_width(data, target_field) == 0) return;
  const FieldColumn column(data, target_field);
  std::vector<float> targets(column.width());
  for (std::int64_t i = 0; i < data.size(); ++i) {
    column.read(i, targets);
    for (std::size_t k = 0; k < targets.size(); ++k) {
      if (std::isfinite(n.scaled_target(static_cast<double>(targets[k]), k))) continue;
      throw InputError(fmt::format(
          "{}: target number {} is {}, and scaled as in the training (mean {:.6g}, deviation {:.6g}) that is "
          "beyond the range of float32: repair the value, or train with data.scale_targets = none",
          data.where(i), k, targets[k], n.target_mean()[k], n.target_deviation()[k]));
    }
  }
}

std::vector<std::string> warnings_of_training(const Dataset& train, const DataInfo& info) {
  if (info.normalizer.kind() != Normalizer::Kind::standard || train.size() == 0 ||
      FieldColumn(train, input_field).is_bytes())
    return {};
  const Extremes e = extremes_of(train, info);
  const std::size_t each = per_group(info);
  std::string columns;
  std::size_t found = 0;
  for (std::size_t g = 0; g < e.low.size(); ++g) {
    if (e.low[g] == e.high[g] || !is_rounding(e.low[g], e.high[g])) continue;
    if (++found > most_told) continue;
    columns += fmt::format(
        "{}{} ({} to {})", found > 1 ? ", " : "",
        each == 1 ? element_text(info, static_cast<std::int64_t>(g)) : fmt::format("channel {} (from 0)", g),
        e.low[g], e.high[g]);
  }
  if (found == 0) return {};
  if (found > most_told) columns += fmt::format(" and {} more", found - most_told);
  return {
      fmt::format("{}: the values of the training split differ by rounding alone, and are taken for "
                  "constant",
                  columns)};
}

std::vector<std::string> warnings_of_inputs(const Dataset& data, const DataInfo& info) {
  const auto place = first_beyond(data, info, far_away);
  if (!place) return {};
  const std::size_t group = place->element / per_group(info);
  const double distance =
      std::abs(static_cast<double>(info.normalizer.normalized(static_cast<double>(place->value), group)));
  return {fmt::format(
      "{}: {} is {}, {:.2g} deviations from the mean of the training split: what the model gives for such a "
      "sample means little; look whether the data is of the kind that was trained on",
      data.where(place->sample), element_text(info, static_cast<std::int64_t>(place->element)), place->value,
      distance)};
}

}  // namespace lockstep
