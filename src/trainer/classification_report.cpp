#include "trainer/classification_report.h"

#include <algorithm>
#include <fmt/format.h>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace lockstep {
namespace {

double ratio(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

/// Characters on the screen: UTF-8 continuation bytes take no column of their own.
std::size_t columns(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string right(const std::string& text, std::size_t width) {
  return std::string(width - std::min(width, columns(text)), ' ') + text;
}

std::vector<std::string> labels_of(const ConfusionMatrix& matrix, const std::vector<std::string>& names) {
  require(names.empty() || static_cast<std::int64_t>(names.size()) == matrix.classes(),
          "one name per class is needed");
  if (!names.empty()) return names;
  std::vector<std::string> numbers;
  for (std::int64_t c = 0; c < matrix.classes(); ++c) numbers.push_back(std::to_string(c));
  return numbers;
}

std::size_t widest_of(const std::vector<std::string>& texts, std::size_t least) {
  for (const std::string& t : texts) least = std::max(least, columns(t));
  return least;
}

std::string score_line(const std::string& name, std::size_t width, const ClassScore& s) {
  return fmt::format("  {}  {:>9.4f}  {:>9.4f}  {:>9.4f}  {:>9}\n", right(name, width), s.precision, s.recall,
                     s.f1, s.support);
}

}  // namespace

ConfusionMatrix::ConfusionMatrix(std::int64_t classes) : ConfusionMatrix(classes, {}) {}

ConfusionMatrix::ConfusionMatrix(std::int64_t classes, std::vector<std::int64_t> counts)
    : classes_(classes), counts_(std::move(counts)) {
  require(classes >= 1, "a confusion matrix needs classes");
  const auto cells = static_cast<std::size_t>(classes) * static_cast<std::size_t>(classes);
  if (counts_.empty()) counts_.resize(cells);
  require(counts_.size() == cells, "a confusion matrix needs classes * classes counts");
}

std::size_t ConfusionMatrix::at(std::int64_t label, std::int64_t prediction) const {
  require(label >= 0 && label < classes_ && prediction >= 0 && prediction < classes_,
          "a class is out of range");
  return static_cast<std::size_t>(label * classes_ + prediction);
}

void ConfusionMatrix::add(std::int64_t label, std::int64_t prediction, std::int64_t times) {
  counts_[at(label, prediction)] += times;
}

std::int64_t ConfusionMatrix::count(std::int64_t label, std::int64_t prediction) const {
  return counts_[at(label, prediction)];
}

ClassificationReport::ClassificationReport(const ConfusionMatrix& matrix) {
  const std::int64_t classes = matrix.classes();
  for (std::int64_t c = 0; c < classes; ++c) {
    std::int64_t predicted = 0;
    ClassScore score;
    for (std::int64_t other = 0; other < classes; ++other) {
      predicted += matrix.count(other, c);
      score.support += matrix.count(c, other);
    }
    const std::int64_t hits = matrix.count(c, c);
    score.precision = ratio(hits, predicted);
    score.recall = ratio(hits, score.support);
    score.f1 = ratio(2 * hits, predicted + score.support);  // = 2pr / (p + r), without rounding twice
    scores.push_back(score);
    correct += hits;
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
  accuracy = ratio(correct, samples);
}

std::string report_text(const ConfusionMatrix& matrix, const std::vector<std::string>& names) {
  const ClassificationReport report(matrix);
  const std::vector<std::string> labels = labels_of(matrix, names);
  const std::size_t width = widest_of(labels, std::string("macro average").size());
  std::string out = fmt::format("  {}  {:>9}  {:>9}  {:>9}  {:>9}\n", right("class", width), "precision",
                                "recall", "F1", "samples");
  std::string undefined;
  for (std::size_t c = 0; c < labels.size(); ++c) {
    out += score_line(labels[c], width, report.scores[c]);
    const auto index = static_cast<std::int64_t>(c);
    std::int64_t predicted = 0;
    for (std::int64_t label = 0; label < matrix.classes(); ++label) predicted += matrix.count(label, index);
    if (predicted == 0)
      undefined += fmt::format("  class {}: never predicted, so its precision counts as 0\n", labels[c]);
    if (report.scores[c].support == 0)
      undefined += fmt::format("  class {}: no samples, so its recall counts as 0\n", labels[c]);
  }
  out += score_line("macro average", width, report.macro);
  out += fmt::format("  accuracy {:.4f} ({} of {})\n", report.accuracy, report.correct, report.samples);
  return out + undefined;
}

std::string confusion_text(const ConfusionMatrix& matrix, const std::vector<std::string>& names,
                           std::int64_t widest) {
  if (matrix.classes() > widest) {
    return fmt::format("  ({} classes: the confusion matrix is in the JSON report)\n", matrix.classes());
  }
  const std::vector<std::string> labels = labels_of(matrix, names);
  const std::int64_t most = *std::max_element(matrix.counts().begin(), matrix.counts().end());
  const std::size_t name_width = widest_of(labels, std::string("label").size());
  const std::size_t cell = widest_of(labels, std::to_string(most).size());
  std::string out = "  " + right("label", name_width) + " |";
  for (const std::string& name : labels) out += " " + right(name, cell);
  out += "   <- predicted\n  " + std::string(name_width + 1, '-') + "+" +
         std::string((cell + 1) * labels.size(), '-') + "\n";
  for (std::int64_t label = 0; label < matrix.classes(); ++label) {
    out += "  " + right(labels[static_cast<std::size_t>(label)], name_width) + " |";
    for (std::int64_t p = 0; p < matrix.classes(); ++p)
      out += " " + right(std::to_string(matrix.count(label, p)), cell);
    out += "\n";
  }
  return out;
}

std::string report_json(const ConfusionMatrix& matrix, const std::vector<std::string>& names) {
  using Json = nlohmann::ordered_json;
  const ClassificationReport report(matrix);
  const std::vector<std::string> labels = labels_of(matrix, names);
  const auto scores = [](const ClassScore& s) {
    return Json{{"precision", s.precision}, {"recall", s.recall}, {"f1", s.f1}, {"support", s.support}};
  };
  Json out{{"samples", report.samples}, {"accuracy", report.accuracy}, {"macro", scores(report.macro)}};
  out["classes"] = Json::array();
  out["confusion"] = Json::array();
  for (std::size_t c = 0; c < labels.size(); ++c) {
    Json entry{{"name", labels[c]}};
    entry.update(scores(report.scores[c]));
    out["classes"].push_back(entry);
    Json row = Json::array();
    for (std::int64_t p = 0; p < matrix.classes(); ++p)
      row.push_back(matrix.count(static_cast<std::int64_t>(c), p));
    out["confusion"].push_back(row);
  }
  return out.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace lockstep
