#include "trainer/evaluate/prediction_rows.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/text.h"
#include "trainer/evaluate/classification_report.h"
#include "trainer/evaluate/csv_field.h"
#include "trainer/evaluate/evaluation.h"

namespace lockstep {
namespace {

/// softmax of logits in float64.
std::vector<double> probabilities(std::span<const float> logits) {
  std::vector<double> p(logits.begin(), logits.end());
  const double top = p[static_cast<std::size_t>(largest(logits))];
  double sum = 0;
  for (double& x : p) sum += x = std::exp(x - top);
  for (double& x : p) x /= sum;
  return p;
}

bool tells_every_class(const DataInfo& info) {
  return info.classes <= most_classes_told;
}

/// The columns of CSV besides the id columns, without "index".
std::vector<std::string> own_columns(const DataInfo& info) {
  std::vector<std::string> columns;
  if (info.classes > 0) {
    columns = {"label"};
    if (!info.class_names.empty()) columns.emplace_back("class");
    columns.emplace_back("probability");
    for (std::int64_t c = 0; tells_every_class(info) && c < info.classes; ++c)
      columns.push_back("probability." + info.class_name(c));
  } else if (info.target_width == 1) {
    columns = {"prediction"};
  } else {
    for (std::int64_t k = 0; k < info.target_width; ++k)
      columns.push_back("prediction." + info.target_name(k));
  }
  return columns;
}

}  // namespace

PredictionFormat prediction_format(const std::string& path) {
  const std::string name = to_lower(path);
  if (name.ends_with(".gz"))
    throw InputError(fmt::format(
        "--output {}: predictions are written as plain text; leave .gz out, and pack the file afterwards",
        path));
  return name.ends_with(".csv") ? PredictionFormat::csv : PredictionFormat::json_lines;
}

PredictionRows::PredictionRows(const DataInfo& info, PredictionFormat format, IdColumns ids)
    : info_(info), format_(format), ids_(std::move(ids)) {}

std::span<const std::string> PredictionRows::ids_of(std::int64_t index) const {
  const std::size_t width = ids_.names.size();
  return std::span(ids_.values).subspan(static_cast<std::size_t>(index) * width, width);
}

std::string PredictionRows::head() const {
  if (format_ == PredictionFormat::json_lines) return {};
  const std::vector<std::string> own = own_columns(info_);
  std::string line = "index";
  for (const std::string& name : ids_.names) {
    const bool double_name = name == "index" || std::find(own.begin(), own.end(), name) != own.end();
    line += "," + csv_field(double_name ? "id." + name : name);
  }
  for (const std::string& name : own) line += "," + csv_field(name);
  return line + "\n";
}

std::string PredictionRows::row(std::int64_t index, std::span<const float> output) const {
  return format_ == PredictionFormat::csv ? csv_row(index, output) : json_row(index, output);
}

std::string PredictionRows::json_row(std::int64_t index, std::span<const float> output) const {
  using Json = nlohmann::ordered_json;
  Json line{{"index", index}};
  if (!ids_.empty()) {
    line["id"] = Json::object();
    const std::span<const std::string> values = ids_of(index);
    for (std::size_t i = 0; i < values.size(); ++i) line["id"][ids_.names[i]] = values[i];
  }
  if (info_.classes > 0) {
    const std::int64_t label = largest(output);
    const std::vector<double> p = probabilities(output);
    line["label"] = label;
    if (!info_.class_names.empty()) line["class"] = info_.class_name(label);
    line["probability"] = p[static_cast<std::size_t>(label)];
    line["probabilities"] = p;
  } else {
    std::vector<double> values;
    for (std::size_t k = 0; k < output.size(); ++k)
      values.push_back(info_.normalizer.in_units_of_data(output[k], k));
    if (values.size() == 1)
      line["prediction"] = values[0];
    else
      line["prediction"] = values;
  }
  return line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string PredictionRows::csv_row(std::int64_t index, std::span<const float> output) const {
  std::string line = std::to_string(index);
  if (!ids_.empty())
    for (const std::string& value : ids_of(index)) line += "," + csv_field(value);
  if (info_.classes > 0) {
    const std::int64_t label = largest(output);
    const std::vector<double> p = probabilities(output);
    line += fmt::format(",{}", label);
    if (!info_.class_names.empty()) line += "," + csv_field(info_.class_name(label));
    line += fmt::format(",{}", p[static_cast<std::size_t>(label)]);
    if (tells_every_class(info_))
      for (const double x : p) line += fmt::format(",{}", x);
  } else {
    for (std::size_t k = 0; k < output.size(); ++k)
      line += fmt::format(",{}", info_.normalizer.in_units_of_data(output[k], k));
  }
  return line + "\n";
}

}  // namespace lockstep
