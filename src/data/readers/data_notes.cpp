#include "data/readers/data_notes.h"

#include <algorithm>
#include <fmt/format.h>
#include <map>

#include "core/printable.h"
#include "core/text.h"
#include "data/readers/csv_text.h"
#include "data/readers/data_info.h"

namespace lockstep {

namespace {

constexpr std::int64_t most_named = 10;  // classes of which each is counted in the line

std::string file_text(const std::string& path) {
  return "'" + printable(path) + "'";
}

/// Of the classes that occur: there may be many more.
using LabelCounts = std::map<std::int64_t, std::int64_t>;
LabelCounts count_labels(const MemoryContent& content) {
  LabelCounts counts;
  for (const std::int32_t label : content.labels) ++counts[label];
  return counts;
}

std::int64_t count_of(const LabelCounts& counts, std::int64_t label) {
  const auto found = counts.find(label);
  return found == counts.end() ? 0 : found->second;
}

/// A class by its name, fit for a terminal.
std::string class_text(const DataInfo& info, std::int64_t label) {
  const std::string name = info.class_name(label);
  const std::string quoted = in_quotes(name);
  // Quotes only where something would be lost without them.
  const bool plain = quoted.size() == name.size() + 2 && quoted.compare(1, name.size(), name) == 0 &&
                     name.find_first_of(" ,:;") == std::string::npos;
  return plain ? name : quoted;
}

std::string classes_text(const MemoryContent& content, const DataInfo& info) {
  const LabelCounts counts = count_labels(content);
  std::string text = fmt::format("{} class{}: ", info.classes, info.classes == 1 ? "" : "es");
  if (info.classes <= most_named) {
    for (std::int64_t c = 0; c < info.classes; ++c)
      text += fmt::format("{}{} {}", c == 0 ? "" : ", ", class_text(info, c), count_of(counts, c));
    return text;
  }
  const auto fewer = [](const auto& a, const auto& b) { return a.second < b.second; };
  const auto least = std::min_element(counts.begin(), counts.end(), fewer);
  const auto most = std::max_element(counts.begin(), counts.end(), fewer);
  text += fmt::format("{} to {}, ", class_text(info, 0), class_text(info, info.classes - 1));
  if (static_cast<std::int64_t>(counts.size()) < info.classes)
    text += fmt::format("{} occur, ", counts.size());
  if (least->second == most->second)
    return text + fmt::format("with {} sample{} each", most->second, most->second == 1 ? "" : "s");
  return text + fmt::format("with {} ({}) to {} samples ({})", least->second, class_text(info, least->first),
                            most->second, class_text(info, most->first));
}

std::string column_name(const CsvSchema& columns, std::int64_t column) {
  const std::string& name = columns.columns[static_cast<std::size_t>(column)];
  return columns.header && !name.empty() ? in_quotes(name) : fmt::format("number {} (from 0)", column);
}

std::string columns_text(const CsvSchema& columns, const std::vector<std::int64_t>& which) {
  std::string text = which.size() == 1 ? "column " : "columns ";
  for (std::size_t i = 0; i < which.size(); ++i) {
    if (static_cast<std::int64_t>(i) == most_named)
      return text + fmt::format(" and {} more", which.size() - i);
    text += (i == 0 ? "" : ", ") + column_name(columns, which[i]);
  }
  return text;
}

std::string targets_text(const MemoryContent& content, const CsvSchema* columns) {
  const auto width = static_cast<std::size_t>(content.target_width);
  std::string text = fmt::format("{} target{}: ", width, width == 1 ? "" : "s");
  for (std::size_t t = 0; t < width; ++t) {
    if (static_cast<std::int64_t>(t) == most_named) return text + fmt::format(" and {} more", width - t);
    float low = content.targets[t];
    float high = low;
    for (std::size_t i = t; i < content.targets.size(); i += width) {
      low = std::min(low, content.targets[i]);
      high = std::max(high, content.targets[i]);
    }
    const std::string name =
        columns == nullptr ? "" : "column " + column_name(*columns, columns->label_columns[t]) + " ";
    text += fmt::format("{}{}{:g} to {:g}", t == 0 ? "" : ", ", name, low, high);
  }
  return text;
}

/// "30 features", "1x28x28".
std::string sample_text(const Shape& shape) {
  if (shape.rank() != 1) return shape.text();
  return fmt::format("{} feature{}", shape[0], shape[0] == 1 ? "" : "s");
}

}  // namespace

void DataNotes::tell(const Log& log) const {
  for (const std::string& fact : facts) log.line(LogLevel::info, fact);
  for (const std::string& warning : warnings) log.line(LogLevel::warning, warning);
}

std::string describe_content(const MemoryContent& content, const DataInfo& info, const CsvSchema* columns,
                             bool header) {
  std::string text = content.file.empty() ? "made data" : file_text(content.file);
  text += fmt::format(": {} sample{} of {}", content.samples, content.samples == 1 ? "" : "s",
                      sample_text(content.sample_shape));
  if (!content.stored_as.empty()) text += fmt::format(" ({})", content.stored_as);
  if (columns != nullptr) {
    text += header ? ", below a header" : ", no header";
    if (!columns->dropped_columns.empty())
      text += ", without " + columns_text(*columns, columns->dropped_columns);
  }
  if (!content.targets.empty()) return text + "; " + targets_text(content, columns);
  if (content.labels.empty()) return text;
  if (columns != nullptr) text += "; label " + columns_text(*columns, columns->label_columns);
  return text + (columns != nullptr ? ", " : "; ") + classes_text(content, info);
}

std::string others_reach(const std::vector<std::int32_t>& labels, std::int32_t largest) {
  std::int32_t next = -1;
  for (const std::int32_t label : labels) next = label < largest ? std::max(next, label) : next;
  return next < 0 ? "" : fmt::format(", and the others reach {}", next);
}

std::vector<std::string> doubts_about_labels(const MemoryContent& content, const DataInfo& info) {
  std::vector<std::string> doubts;
  if (content.labels.empty()) return doubts;
  const std::string file = file_text(content.labels_file.empty() ? content.file : content.labels_file);
  const LabelCounts counts = count_labels(content);
  const auto present = static_cast<std::int64_t>(counts.size());
  const std::int64_t absent = info.classes - present;
  if (count_of(counts, 0) == 0 && absent == 1 && info.class_names.empty()) {
    doubts.push_back(fmt::format(
        "{}: label 0 never occurs: the labels are 1 to {}, and classes are numbered from 0, so the model has "
        "{} outputs of which one is never right; number the labels from 0 for {} classes",
        file, info.classes - 1, info.classes, present));
  } else if (absent > 0) {
    std::string which;
    std::int64_t named = 0;
    for (std::int64_t c = 0; c < info.classes && named <= most_named; ++c) {
      if (count_of(counts, c) != 0) continue;
      which += named == 0 ? class_text(info, c) : named == most_named ? ", …" : ", " + class_text(info, c);
      ++named;
    }
    // One stray label makes as many classes as it is large.
    const auto largest = std::max_element(content.labels.begin(), content.labels.end());
    const bool stray = absent > present && info.class_names.empty() && *largest == info.classes - 1;
    doubts.push_back(fmt::format("{}: {} of the {} classes never occur{}: {}{}", file, absent, info.classes,
                                 absent == 1 ? "s" : "", which,
                                 stray
                                     ? fmt::format("; the largest label, {}, is that of {}{}", *largest,
                                                   place_of_label(content, largest - content.labels.begin()),
                                                   others_reach(content.labels, *largest))
                                     : ""));
  }
  if (present == content.samples && present > 2) {
    doubts.push_back(fmt::format(
        "{}: every sample has a class of its own, so nothing can be learnt from one for another: is this the "
        "column of the labels (data.label)?",
        file));
  }
  return doubts;
}

}  // namespace lockstep
