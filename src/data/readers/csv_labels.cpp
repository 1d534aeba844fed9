#include "data/readers/csv_labels.h"

#include <algorithm>
#include <fmt/format.h>
#include <limits>

#include "core/counted.h"
#include "core/error.h"
#include "core/text.h"
#include "data/readers/csv_text.h"

namespace lockstep {

namespace {

enum class Kind { whole, fraction, word };

Kind kind_of(const CsvLabels::Label& label) {
  if (whole_number(label.text)) return Kind::whole;
  if (!number_like(label.text)) return Kind::word;
  // Beyond int64, but an integer all the same.
  return is_column_number(label.text) ? Kind::whole : Kind::fraction;
}

/// Judges the labels of one file.
class Judge {
 public:
  Judge(const std::vector<CsvLabels::Label>& labels, const std::string& origin, const std::string& column)
      : labels_(labels), origin_(origin), column_(column) {
    for (const CsvLabels::Label& label : labels) {
      (kind_of(label) == Kind::word ? words_ : numbers_) += label.count;
      fractions_ += kind_of(label) == Kind::fraction ? label.count : 0;
    }
  }

  bool all_words() const { return numbers_ == 0; }

  /// In a training file: neither words among numbers nor numbers among words.
  void refuse_mixture() const {
    if (words_ == 0 || numbers_ == 0) return;
    const bool odd_word = words_ <= numbers_;
    const auto is_odd = [&](const CsvLabels::Label& l) { return (kind_of(l) == Kind::word) == odd_word; };
    const auto& odd = *std::find_if(labels_.begin(), labels_.end(), is_odd);
    const auto& usual = *std::find_if_not(labels_.begin(), labels_.end(), is_odd);
    const std::int64_t others = odd_word ? numbers_ : words_;
    refuse(odd,
           fmt::format(
               "{}, but {} other label{} {} such as {}: labels must be all integers or all words{}",
               odd_word ? "is not an integer" : "is a number", others, others == 1 ? " is a" : "s are",
               (odd_word ? "number" : "word") + std::string(others == 1 ? "" : "s"), in_quotes(usual.text),
               odd.line == 1 && odd.count == 1 ? "; if line 1 is a header, set data.header = yes" : ""));
  }

  std::int32_t word(const CsvLabels::Label& label, const std::vector<std::string>& names) const {
    const auto at = std::lower_bound(names.begin(), names.end(), label.text);
    if (at != names.end() && *at == label.text) return static_cast<std::int32_t>(at - names.begin());
    const auto near = nearest_word(label.text, names);
    refuse(label, fmt::format("is none of the {} of the training file{}",
                              counted(static_cast<std::int64_t>(names.size()), "class"),
                              near ? fmt::format("; nearest: {}", in_quotes(*near)) : ""));
  }

  std::int32_t number(const CsvLabels::Label& label) const {
    if (kind_of(label) != Kind::whole) {
      if (kind_of(label) == Kind::word) refuse(label, "is not an integer, as those of the training file are");
      const std::int64_t wholes = numbers_ - fractions_;
      refuse(label, fmt::format("is not an integer{}; for regression set loss.name = mse{}",
                                fractions_ == 1 && wholes > 1
                                    ? fmt::format(", but the other {} labels are: repair it", wholes)
                                    : "",
                                wholes == 0 ? ", or name the label column in data.label" : ""));
    }
    const auto value = whole_number(label.text);
    if (value && *value < 0) refuse(label, "is negative: classes are numbered from 0");
    if (!value || *value >= std::numeric_limits<std::int32_t>::max()) {
      if (label.text.starts_with('-')) refuse(label, "is negative: classes are numbered from 0");
      refuse(label, "is too large for a class number");
    }
    return static_cast<std::int32_t>(*value);
  }

 private:
  [[noreturn]] void refuse(const CsvLabels::Label& label, const std::string& what) const {
    throw InputError(fmt::format("{} line {}, {}: label {} {}", origin_, label.line, column_,
                                 in_quotes(label.text), what));
  }

  const std::vector<CsvLabels::Label>& labels_;
  const std::string& origin_;
  const std::string& column_;
  std::int64_t words_ = 0, numbers_ = 0, fractions_ = 0;  // samples; numbers include fractions
};

}  // namespace

std::int32_t CsvLabels::add(std::string_view text, std::int64_t line) {
  const auto [known, is_new] =
      places_.try_emplace(std::string(text), static_cast<std::int32_t>(labels_.size()));
  if (is_new) labels_.push_back({std::string(text), line, 0});
  ++labels_[static_cast<std::size_t>(known->second)].count;
  return known->second;
}

std::vector<std::int32_t> CsvLabels::class_numbers(std::vector<std::string>& names, bool learning,
                                                   const std::string& origin,
                                                   const std::string& column) const {
  const Judge judge(labels_, origin, column);
  if (learning) judge.refuse_mixture();
  if (learning && judge.all_words()) {
    for (const Label& label : labels_) names.push_back(label.text);
    std::sort(names.begin(), names.end());
  }
  std::vector<std::int32_t> numbers;
  for (const Label& label : labels_)
    numbers.push_back(names.empty() ? judge.number(label) : judge.word(label, names));
  return numbers;
}

}  // namespace lockstep
