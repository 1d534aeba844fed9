#include "trainer/data/data_info.h"

#include <algorithm>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace lockstep {

std::string DataInfo::class_name(std::int64_t label) const {
  if (label >= 0 && label < static_cast<std::int64_t>(class_names.size())) {
    return class_names[static_cast<std::size_t>(label)];
  }
  return fmt::format("{}", label);
}

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
              {"class_names", csv.class_names}};
  j["normalizer"] = nlohmann::json::parse(normalizer.to_json());
  try {
    return j.dump(2);
  } catch (const nlohmann::json::type_error&) {
    throw InputError("a column or class name of the training file is not UTF-8 text: save the file as UTF-8");
  }
}

DataInfo DataInfo::from_json(const std::string& text, const std::string& origin) {
  DataInfo info;
  try {
    const nlohmann::json j = nlohmann::json::parse(text);
    info.sample_shape = Shape(j.at("sample_shape").get<std::vector<std::int64_t>>());
    info.classes = j.at("classes").get<std::int64_t>();
    info.class_names = j.at("class_names").get<std::vector<std::string>>();
    info.target_width = j.at("target_width").get<std::int64_t>();
    info.train_file_samples = j.at("train_file_samples").get<std::int64_t>();
    const nlohmann::json& csv = j.at("csv");
    info.csv.header = csv.at("header").get<bool>();
    info.csv.columns = csv.at("columns").get<std::vector<std::string>>();
    info.csv.label_columns = csv.at("label_columns").get<std::vector<std::int64_t>>();
    info.csv.class_names = csv.at("class_names").get<std::vector<std::string>>();
    info.normalizer = Normalizer::from_json(j.at("normalizer").dump(), origin);
  } catch (const nlohmann::json::exception& e) {
    throw InputError(
        fmt::format("{}: the stored description of the data cannot be read: {}", origin, e.what()));
  }
  const auto columns = static_cast<std::int64_t>(info.csv.columns.size());
  const bool sound =
      info.sample_shape.rank() >= 1 &&
      std::all_of(info.sample_shape.begin(), info.sample_shape.end(), [](std::int64_t d) { return d > 0; }) &&
      (info.classes > 0) != (info.target_width > 0) &&
      (info.target_width > 0 || !info.normalizer.scales_targets()) && info.classes >= 0 &&
      info.target_width >= 0 && info.train_file_samples > 0 &&
      (info.class_names.empty() || static_cast<std::int64_t>(info.class_names.size()) == info.classes) &&
      std::is_sorted(info.csv.class_names.begin(), info.csv.class_names.end()) &&
      std::all_of(info.csv.label_columns.begin(), info.csv.label_columns.end(),
                  [columns](std::int64_t c) { return c >= 0 && c < columns; });
  if (!sound)
    throw InputError(fmt::format("{}: the stored description of the data contradicts itself", origin));
  info.normalizer.check(info.sample_shape, info.target_width);
  return info;
}

}  // namespace lockstep
