#include "data/readers/data_info.h"

#include <algorithm>
#include <fmt/format.h>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/json_number.h"

namespace lockstep {

std::string DataInfo::class_name(std::int64_t label) const {
  if (label >= 0 && label < static_cast<std::int64_t>(class_names.size())) {
    return class_names[static_cast<std::size_t>(label)];
  }
  return fmt::format("{}", label);
}

namespace {

/// The columns are those of the samples: each is a feature, a label or left out, and none is two of these.
bool fits(const CsvSchema& csv, const DataInfo& info) {
  if (csv.columns.empty()) return csv.label_columns.empty() && csv.dropped_columns.empty();
  std::set<std::int64_t> apart;
  for (const auto* list : {&csv.label_columns, &csv.dropped_columns}) {
    for (const std::int64_t column : *list)
      if (column >= static_cast<std::int64_t>(csv.columns.size()) || !apart.insert(column).second)
        return false;
  }
  const auto labels = static_cast<std::int64_t>(csv.label_columns.size());
  const auto features = static_cast<std::int64_t>(csv.columns.size() - apart.size());
  return features == info.sample_shape.elements() && labels == (info.classes > 0 ? 1 : info.target_width);
}

}  // namespace

std::string DataInfo::target_name(std::int64_t target) const {
  const auto place = static_cast<std::size_t>(target);
  if (csv.header && place < csv.label_columns.size())
    return csv.columns[static_cast<std::size_t>(csv.label_columns[place])];
  return fmt::format("target {}", target);
}

std::string DataInfo::to_json() const {
  nlohmann::json j;
  j["sample_shape"] = sample_shape.dims();
  j["classes"] = classes;
  j["class_names"] = class_names;
  j["target_width"] = target_width;
  j["train_file_samples"] = train_file_samples;
  j["csv"] = {{"header", csv.header},
              {"columns", csv.columns},
              {"label_columns", csv.label_columns},
              {"dropped_columns", csv.dropped_columns},
              {"class_names", csv.class_names}};
  j["normalizer"] = nlohmann::json::parse(normalizer.to_json());
  try {
    return j.dump(2);
  } catch (const nlohmann::json::type_error&) {
    throw InputError("a column or class name of the training file is not UTF-8 text: save the file as UTF-8");
  }
}

namespace {

DataInfo read_info(const std::string& text, const std::string& origin) {
  DataInfo info;
  try {
    // Deeper than anything that to_json() writes; dump() recurses.
    const auto shallow = [](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
      if (depth > 16) throw JsonNumberError("it is nested too deeply");
      return true;
    };
    const nlohmann::json j = nlohmann::json::parse(text, shallow);
    constexpr std::int64_t most_outputs = std::numeric_limits<std::int32_t>::max();
    info.sample_shape = Shape(json_integers(j, "sample_shape", 1));
    info.classes = json_integer(j, "classes", 0, most_outputs);
    info.class_names = j.at("class_names").get<std::vector<std::string>>();
    info.target_width = json_integer(j, "target_width", 0, most_outputs);
    info.train_file_samples = json_integer(j, "train_file_samples", 1);
    const nlohmann::json& csv = j.at("csv");
    info.csv.header = csv.at("header").get<bool>();
    info.csv.columns = csv.at("columns").get<std::vector<std::string>>();
    info.csv.label_columns = json_integers(csv, "label_columns", 0);
    // Runs of before know no columns that are left out.
    if (csv.contains("dropped_columns")) info.csv.dropped_columns = json_integers(csv, "dropped_columns", 0);
    info.csv.class_names = csv.at("class_names").get<std::vector<std::string>>();
    info.normalizer = Normalizer::from_json(j.at("normalizer").dump(), origin);
  } catch (const nlohmann::json::exception& e) {
    throw InputError(
        fmt::format("{}: the stored description of the data cannot be read: {}", origin, json_fault(e)));
  } catch (const JsonNumberError& e) {
    throw InputError(
        fmt::format("{}: the stored description of the data cannot be right: {}", origin, e.what()));
  }
  const bool sound =
      info.sample_shape.rank() >= 1 &&
      info.sample_shape.elements() < std::numeric_limits<std::int64_t>::max() &&
      (info.classes > 0) != (info.target_width > 0) &&
      (info.target_width > 0 || !info.normalizer.scales_targets()) &&
      (info.class_names.empty() || static_cast<std::int64_t>(info.class_names.size()) == info.classes) &&
      std::is_sorted(info.csv.class_names.begin(), info.csv.class_names.end()) && fits(info.csv, info);
  if (!sound)
    throw InputError(fmt::format("{}: the stored description of the data contradicts itself", origin));
  info.normalizer.check(info.sample_shape, info.target_width);
  return info;
}

}  // namespace

DataInfo DataInfo::from_json(const std::string& text, const std::string& origin) {
  try {
    return read_info(text, origin);
  } catch (const InputError& e) {
    throw InputError(fmt::format("{}; put back the file that the run wrote, or train anew", e.what()));
  }
}

}  // namespace lockstep
