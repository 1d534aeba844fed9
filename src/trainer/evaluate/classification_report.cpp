#include "trainer/evaluate/classification_report.h"

#include <algorithm>
#include <fmt/format.h>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <span>

#include "core/counted.h"
#include "core/error.h"
#include "core/printable.h"

namespace lockstep {
namespace {

double ratio(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

constexpr std::size_t widest_name = 40;      // columns of a class's name
constexpr std::size_t worst_told = 20;       // classes in the table of a report that is cut
constexpr std::size_t most_cells = 1 << 12;  // that a rank gives at once

std::string name_of(const std::vector<std::string>& names, std::int64_t label) {
  return names.empty() ? std::to_string(label)
                       : printable(names[static_cast<std::size_t>(label)], widest_name);
}

void check_names(const ConfusionMatrix& matrix, const std::vector<std::string>& names) {
  require(names.empty() || static_cast<std::int64_t>(names.size()) == matrix.classes(),
          "one name per class is needed");
}

std::string score_line(const std::string& name, std::size_t width, const ClassScore& s) {
  return fmt::format("  {}  {:>9.4f}  {:>9.4f}  {:>9.4f}  {:>9}\n", pad_left(name, width), s.precision,
                     s.recall, s.f1, s.support);
}

/// The scores of all classes where they are few, else the worst of those that occur; in their order.
std::vector<ClassScore> told(const ClassificationReport& report) {
  std::vector<ClassScore> scores = report.scores;
  if (report.classes > most_classes_told) {
    const auto worse = [](const ClassScore& a, const ClassScore& b) {
      if (a.f1 != b.f1) return a.f1 < b.f1;
      return a.support != b.support ? a.support > b.support : a.label < b.label;
    };
    std::sort(scores.begin(), scores.end(), worse);
    scores.resize(std::min(scores.size(), worst_told));
    return scores;
  }
  std::vector<ClassScore> all(static_cast<std::size_t>(report.classes));
  for (std::size_t c = 0; c < all.size(); ++c) all[c].label = static_cast<std::int64_t>(c);
  for (const ClassScore& s : scores) all[static_cast<std::size_t>(s.label)] = s;
  return all;
}

/// What is not in the table of a report that was cut.
std::string left_out_text(const ClassificationReport& report, std::size_t shown,
                          const std::string& elsewhere) {
  std::int64_t never = 0, absent = report.classes;
  for (const ClassScore& s : report.scores) {
    if (s.predicted == 0) ++never;
    if (s.support > 0) --absent;
  }
  std::string text = fmt::format("  the {} worst of {} classes by F1; {} has all that occur\n", shown,
                                 report.classes, elsewhere);
  if (never > 0)
    text += fmt::format("  {} with samples {} never predicted, so {} precision counts as 0\n",
                        counted(never, "class"), never == 1 ? "is" : "are", never == 1 ? "its" : "their");
  if (absent > 0)
    text += fmt::format("  {} no samples, so {} recall counts as 0\n",
                        absent == 1 ? "1 class has" : fmt::format("{} classes have", absent),
                        absent == 1 ? "its" : "their");
  return text;
}

}  // namespace

ConfusionMatrix::ConfusionMatrix(std::int64_t classes) : classes_(classes) {
  require(classes >= 1 && classes <= std::numeric_limits<std::int32_t>::max(),
          "a confusion matrix needs classes");
}

ConfusionMatrix::ConfusionMatrix(std::int64_t classes, const std::vector<ConfusionCell>& cells)
    : ConfusionMatrix(classes) {
  for (const ConfusionCell& cell : cells) add(cell.label, cell.prediction, cell.count);
}

std::int64_t ConfusionMatrix::at(std::int64_t label, std::int64_t prediction) const {
  require(label >= 0 && label < classes_ && prediction >= 0 && prediction < classes_,
          "a class is out of range");
  return label * classes_ + prediction;
}

void ConfusionMatrix::add(std::int64_t label, std::int64_t prediction, std::int64_t times) {
  counts_[at(label, prediction)] += times;
}

std::int64_t ConfusionMatrix::count(std::int64_t label, std::int64_t prediction) const {
  const auto found = counts_.find(at(label, prediction));
  return found == counts_.end() ? 0 : found->second;
}

std::vector<ConfusionCell> ConfusionMatrix::cells() const {
  std::vector<ConfusionCell> cells;
  for (const auto& [key, count] : counts_)
    if (count != 0) cells.push_back({key / classes_, key % classes_, count});
  std::sort(cells.begin(), cells.end(), [](const ConfusionCell& a, const ConfusionCell& b) {
    return a.label != b.label ? a.label < b.label : a.prediction < b.prediction;
  });
  return cells;
}

ConfusionMatrix sum_over_ranks(Communicator& comm, const ConfusionMatrix& mine) {
  if (comm.size() == 1) return mine;
  const auto ranks = static_cast<std::size_t>(comm.size());
  const std::vector<ConfusionCell> cells = mine.cells();
  const std::uint64_t held = cells.size();
  std::vector<std::uint64_t> counts(ranks);
  comm.all_gather(std::as_bytes(std::span(&held, 1)), std::as_writable_bytes(std::span(counts)));
  const std::size_t longest = *std::max_element(counts.begin(), counts.end());
  const std::size_t part = std::min(longest, most_cells);
  std::vector<ConfusionCell> given(part), all(part * ranks);
  ConfusionMatrix sum(mine.classes());
  for (std::size_t first = 0; first < longest; first += part) {
    for (std::size_t i = 0; i < part; ++i)
      given[i] = first + i < cells.size() ? cells[first + i] : ConfusionCell{};
    comm.all_gather(std::as_bytes(std::span(given)), std::as_writable_bytes(std::span(all)));
    for (const ConfusionCell& cell : all)
      if (cell.count != 0) sum.add(cell.label, cell.prediction, cell.count);
  }
  return sum;
}

ClassificationReport::ClassificationReport(const ConfusionMatrix& matrix) : classes(matrix.classes()) {
  std::map<std::int64_t, ClassScore> occurring;
  std::map<std::int64_t, std::int64_t> hits;
  for (const ConfusionCell& cell : matrix.cells()) {
    occurring[cell.label].support += cell.count;
    occurring[cell.prediction].predicted += cell.count;
    if (cell.label == cell.prediction) hits[cell.label] += cell.count;
  }
  for (auto& [label, score] : occurring) {
    const auto hit = hits.find(label);
    const std::int64_t right = hit == hits.end() ? 0 : hit->second;
    score.label = label;
    score.precision = ratio(right, score.predicted);
    score.recall = ratio(right, score.support);
    score.f1 = ratio(2 * right, score.predicted + score.support);  // = 2pr / (p + r), without rounding twice
    scores.push_back(score);
    correct += right;
    samples += score.support;
    macro.precision += score.precision;
    macro.recall += score.recall;
    macro.f1 += score.f1;
  }
  const auto n = static_cast<double>(classes);
  macro.precision /= n;
  macro.recall /= n;
  macro.f1 /= n;
  macro.support = samples;
  macro.predicted = samples;
  accuracy = ratio(correct, samples);
}

std::string report_text(const ConfusionMatrix& matrix, const std::vector<std::string>& names,
                        const std::string& elsewhere) {
  check_names(matrix, names);
  const ClassificationReport report(matrix);
  const std::vector<ClassScore> shown = told(report);
  const bool cut = report.classes > most_classes_told;
  std::size_t width = std::string("macro average").size();
  for (const ClassScore& s : shown) width = std::max(width, display_width(name_of(names, s.label)));
  std::string out = fmt::format("  {}  {:>9}  {:>9}  {:>9}  {:>9}\n", pad_left("class", width), "precision",
                                "recall", "F1", "samples");
  std::string undefined;
  for (const ClassScore& s : shown) {
    const std::string name = name_of(names, s.label);
    out += score_line(name, width, s);
    if (s.predicted == 0)
      undefined += fmt::format("  class {}: never predicted, so its precision counts as 0\n", name);
    if (s.support == 0) undefined += fmt::format("  class {}: no samples, so its recall counts as 0\n", name);
  }
  out += score_line("macro average", width, report.macro);
  out += fmt::format("  accuracy {:.4f} ({} of {})\n", report.accuracy, report.correct, report.samples);
  return out + (cut ? left_out_text(report, shown.size(), elsewhere) : undefined);
}

std::string confusion_text(const ConfusionMatrix& matrix, const std::vector<std::string>& names,
                           std::int64_t widest, const std::string& elsewhere) {
  check_names(matrix, names);
  if (matrix.classes() > widest) {
    return fmt::format("  ({} classes: the confusion matrix is in {})\n", matrix.classes(), elsewhere);
  }
  std::int64_t most = 0;
  for (const ConfusionCell& cell : matrix.cells()) most = std::max(most, cell.count);
  std::size_t name_width = std::string("label").size(), cell = std::to_string(most).size();
  for (std::int64_t c = 0; c < matrix.classes(); ++c) {
    name_width = std::max(name_width, display_width(name_of(names, c)));
    cell = std::max(cell, display_width(name_of(names, c)));
  }
  std::string out = "  " + pad_left("label", name_width) + " |";
  for (std::int64_t c = 0; c < matrix.classes(); ++c) out += " " + pad_left(name_of(names, c), cell);
  out += "   <- predicted\n  " + std::string(name_width + 1, '-') + "+" +
         std::string((cell + 1) * static_cast<std::size_t>(matrix.classes()), '-') + "\n";
  for (std::int64_t label = 0; label < matrix.classes(); ++label) {
    out += "  " + pad_left(name_of(names, label), name_width) + " |";
    for (std::int64_t p = 0; p < matrix.classes(); ++p)
      out += " " + pad_left(std::to_string(matrix.count(label, p)), cell);
    out += "\n";
  }
  return out;
}

std::string report_json(const ConfusionMatrix& matrix, const std::vector<std::string>& names) {
  using Json = nlohmann::ordered_json;
  check_names(matrix, names);
  const ClassificationReport report(matrix);
  const bool all = report.classes <= most_classes_told;
  const auto scores = [](const ClassScore& s) {
    return Json{{"precision", s.precision}, {"recall", s.recall}, {"f1", s.f1}, {"support", s.support}};
  };
  Json out{{"samples", report.samples},
           {"accuracy", report.accuracy},
           {"correct", report.correct},
           {"number_of_classes", report.classes},
           {"macro", scores(report.macro)}};
  out["classes"] = Json::array();
  for (const ClassScore& s : all ? told(report) : report.scores) {
    Json entry{{"label", s.label},
               {"name", names.empty() ? std::to_string(s.label) : names[static_cast<std::size_t>(s.label)]}};
    entry.update(scores(s));
    entry["predicted"] = s.predicted;
    out["classes"].push_back(entry);
  }
  if (all) {
    out["confusion"] = Json::array();
    for (std::int64_t label = 0; label < report.classes; ++label) {
      Json row = Json::array();
      for (std::int64_t p = 0; p < report.classes; ++p) row.push_back(matrix.count(label, p));
      out["confusion"].push_back(row);
    }
  } else {
    out["confusion_cells"] = Json::array();
    for (const ConfusionCell& c : matrix.cells())
      out["confusion_cells"].push_back({c.label, c.prediction, c.count});
  }
  return out.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace lockstep
