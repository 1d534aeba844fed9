#include "trainer/data/csv.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <fmt/format.h>
#include <limits>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "core/text.h"
#include "core/utf8.h"
#include "trainer/data/csv_reader.h"
#include "trainer/data/gzip.h"

namespace lockstep {

namespace {

/// The text is held in memory while it is parsed.
constexpr std::uint64_t most_text = std::uint64_t{16} << 30;

/// Text of the user's for a message: short, on one line.
std::string quoted(std::string_view text) {
  constexpr std::size_t most = 40;
  std::string out(text.substr(0, most));
  std::replace_if(
      out.begin(), out.end(), [](char c) { return static_cast<unsigned char>(c) < 32; }, '?');
  return "'" + out + (text.size() > most ? "…'" : "'");
}

bool number_like(std::string_view text) {
  const std::string_view field = trim(text);
  if (parse_double(field)) return true;
  std::string word = to_lower(field);
  if (!word.empty() && (word[0] == '+' || word[0] == '-')) word.erase(0, 1);
  return word == "nan" || word == "inf" || word == "infinity";
}

/// A label word with its class number and where it first stands.
struct Word {
  std::string text;
  std::int64_t line;
};

class CsvLoader {
 public:
  CsvLoader(const std::string& path, const std::string& key, const CsvOptions& options)
      : options_(options), text_(read(path, key)), reader_(text_, origin_) {
    content_.file = path;
  }

  CsvContent load() {
    if (!reader_.next()) throw InputError(fmt::format("{} holds no line of data", origin_));
    if (options_.trained == nullptr) {
      learn_schema();
    } else {
      match_schema();
    }
    find_features();
    if (schema_.header && !reader_.next()) {
      throw InputError(fmt::format("{} holds a header line and no data", origin_));
    }
    do {
      add_record();
    } while (reader_.next());
    finish();
    return CsvContent{std::move(content_), std::move(schema_)};
  }

 private:
  std::string read(const std::string& path, const std::string& key) {
    if (options_.text != nullptr) {
      origin_ = options_.text->origin;
      const auto begin = std::as_bytes(std::span(options_.text->content));
      const auto head = begin.first(std::min<std::size_t>(begin.size(), 512));
      if (!head.empty() && !looks_like_text(head))
        throw InputError(fmt::format("{} is not CSV text: it looks like {}", origin_, guess_kind(head)));
      return options_.text->content;
    }
    std::array<std::byte, 512> buffer;
    // Before all of it is read: gzip unpacks to a thousand times its size.
    const std::span<const std::byte> head = std::span(buffer).first(InputFile(path, key).read(buffer));
    InputFile file(path, key);
    origin_ = file.origin();
    if (!head.empty() && !looks_like_text(head)) {
      throw InputError(fmt::format("{} is not a CSV file: it looks like {}", origin_, guess_kind(head)));
    }
    return read_all(file, most_text);
  }

  std::string column_text(std::size_t column) const {
    return schema_.header ? fmt::format("column {}", quoted(schema_.columns[column]))
                          : fmt::format("column number {} (from 0)", column);
  }
  std::string place(std::size_t column) const {
    return fmt::format("{} line {}, {}", origin_, reader_.line(), column_text(column));
  }
  bool is_label(std::size_t column) const {
    return std::find(schema_.label_columns.begin(), schema_.label_columns.end(),
                     static_cast<std::int64_t>(column)) != schema_.label_columns.end();
  }

  /// Names are stored with the run, and are found again in other files only if those are encoded alike.
  void refuse_other_than_utf8(std::string_view name, std::size_t column) const {
    if (is_utf8(name)) return;
    throw InputError(fmt::format(
        "{} line {}, field number {} (from 0): the name is not UTF-8 text: save the file as UTF-8", origin_,
        reader_.line(), column));
  }

  /// From the first record of the training file: whether it is a header, and which columns are labels.
  void learn_schema() {
    const std::vector<std::string_view>& first = reader_.fields();
    const std::vector<std::string_view> wanted =
        options_.label.empty() ? std::vector<std::string_view>{} : lockstep::split(options_.label, ',');
    const bool by_name =
        std::any_of(wanted.begin(), wanted.end(), [](std::string_view w) { return !parse_int64(trim(w)); });
    for (std::size_t i = 0; i < first.size(); ++i) refuse_other_than_utf8(first[i], i);
    schema_.columns.assign(first.begin(), first.end());
    if (by_name) {
      schema_.header = true;
      find_labels(wanted);
      return;
    }
    // Names may themselves be numbers, so labels are found in both readings before the reading is chosen.
    for (std::size_t i = 0; i < first.size(); ++i) schema_.columns[i] = fmt::format("{}", i);
    find_labels(wanted);
    std::size_t numbers = 0;
    std::size_t others = 0;
    std::size_t number_at = 0;
    std::size_t other_at = 0;
    for (std::size_t i = 0; i < first.size(); ++i) {
      if (is_label(i)) continue;
      if (number_like(first[i])) {
        number_at = numbers++ == 0 ? i : number_at;
      } else {
        other_at = others++ == 0 ? i : other_at;
      }
    }
    if (numbers > 0 && others > 0) {
      throw InputError(fmt::format(
          "{} line {} is neither a header nor data: field number {} (from 0) is the number {}, field "
          "number {} is {}; correct the line, or name the label column in data.label if it is a header",
          origin_, reader_.line(), number_at, quoted(first[number_at]), other_at, quoted(first[other_at])));
    }
    if (others > 0) {
      schema_.header = true;
      schema_.columns.assign(first.begin(), first.end());
      find_labels(wanted);
    }
  }

  void find_labels(const std::vector<std::string_view>& wanted) {
    schema_.label_columns.clear();
    const auto columns = static_cast<std::int64_t>(schema_.columns.size());
    if (wanted.empty()) schema_.label_columns.push_back(columns - 1);
    for (const std::string_view untrimmed : wanted) {
      const std::string_view word = trim(untrimmed);
      const auto named = std::find(schema_.columns.begin(), schema_.columns.end(), word);
      std::int64_t column = named - schema_.columns.begin();
      if (named == schema_.columns.end()) {
        const auto number = parse_int64(word);
        if (!number) {
          const auto near = nearest_word(word, schema_.columns);
          throw ConfigError(fmt::format(
              "data.label names the column {}, which the header of {} does not have{}", quoted(word), origin_,
              near ? fmt::format("; did you mean '{}'?", *near) : column_list()));
        }
        if (*number < 0 || *number >= columns) {
          throw ConfigError(fmt::format("data.label = {} is no column of {}, which has columns 0 to {}",
                                        *number, origin_, columns - 1));
        }
        column = *number;
      } else if (std::find(named + 1, schema_.columns.end(), word) != schema_.columns.end()) {
        throw InputError(
            fmt::format("{} has two columns named {}: give data.label as a number", origin_, quoted(word)));
      }
      if (is_label(static_cast<std::size_t>(column))) {
        throw ConfigError(fmt::format("data.label names the column {} twice", quoted(word)));
      }
      schema_.label_columns.push_back(column);
    }
    if (options_.use == LabelUse::classes && schema_.label_columns.size() != 1) {
      throw ConfigError(fmt::format(
          "data.label names {} columns, but classes have one label; several are for loss.name = mse",
          schema_.label_columns.size()));
    }
    if (schema_.label_columns.size() >= schema_.columns.size()) {
      throw InputError(
          fmt::format("{} has {} column(s) and needs at least one besides {} of labels: fields are separated "
                      "by commas",
                      origin_, columns, schema_.label_columns.size()));
    }
  }

  std::string column_list() const {
    std::string list = ": it has ";
    for (std::size_t i = 0; i < schema_.columns.size(); ++i) {
      if (i == 8) return list + ", …";
      list += (i == 0 ? "" : ", ") + quoted(schema_.columns[i]);
    }
    return list;
  }

  /// Holds the first record against the training file's schema.
  void match_schema() {
    const CsvSchema& trained = *options_.trained;
    const std::vector<std::string_view>& first = reader_.fields();
    schema_ = trained;
    const std::size_t all = trained.columns.size();
    const std::size_t features = all - trained.label_columns.size();
    const bool without_labels = options_.use == LabelUse::none && first.size() == features;
    if (without_labels) {
      schema_.columns.clear();
      for (std::size_t i = 0; i < all; ++i) {
        const auto column = static_cast<std::int64_t>(i);
        if (std::find(trained.label_columns.begin(), trained.label_columns.end(), column) ==
            trained.label_columns.end()) {
          schema_.columns.push_back(trained.columns[i]);
        }
      }
      schema_.label_columns.clear();
    }
    if (first.size() != schema_.columns.size()) {
      throw InputError(
          fmt::format("{} line {} has {} fields, but the training file has {} columns, {} of them labels",
                      origin_, reader_.line(), first.size(), all, trained.label_columns.size()));
    }
    if (!trained.header) return;
    if (std::all_of(first.begin(), first.end(), number_like)) {
      throw InputError(fmt::format("{} has no header line, but the training file has one", origin_));
    }
    for (std::size_t i = 0; i < first.size(); ++i) {
      if (first[i] != schema_.columns[i]) {
        throw InputError(fmt::format(
            "{}: column number {} (from 0) is named {}, but in the training file {}: columns must be "
            "the same in the same order",
            origin_, i, quoted(first[i]), quoted(schema_.columns[i])));
      }
    }
  }

  void find_features() {
    for (std::size_t i = 0; i < schema_.columns.size(); ++i) {
      if (!is_label(i)) features_.push_back(i);
    }
    const auto width = static_cast<std::int64_t>(features_.size());
    content_.sample_shape = options_.shape.value_or(Shape{width});
    if (content_.sample_shape.elements() != width) {
      throw ConfigError(fmt::format("data.shape = {} has {} elements, but {} has {} feature columns",
                                    content_.sample_shape.text(), content_.sample_shape.elements(), origin_,
                                    width));
    }
  }

  float number(std::size_t column) const {
    const std::string_view field = trim(reader_.fields()[column]);
    if (field.empty())
      throw InputError(fmt::format("{}: the field is empty, a number must stand there", place(column)));
    const auto value = parse_double(field);
    if (!value) {
      const bool beyond = number_like(field);
      throw InputError(fmt::format("{}: {} is not {}", place(column), quoted(field),
                                   beyond ? "a finite number: repair or drop the sample" : "a number"));
    }
    const auto single = static_cast<float>(*value);
    if (!std::isfinite(single)) {
      throw InputError(fmt::format("{}: {} is beyond the range of float32", place(column), quoted(field)));
    }
    return single;
  }

  void add_record() {
    const std::vector<std::string_view>& fields = reader_.fields();
    if (fields.size() != schema_.columns.size()) {
      throw InputError(fmt::format("{} line {} has {} fields, but the first line has {}", origin_,
                                   reader_.line(), fields.size(), schema_.columns.size()));
    }
    for (const std::size_t column : features_) content_.floats.push_back(number(column));
    if (options_.use == LabelUse::targets) {
      for (const std::int64_t column : schema_.label_columns) {
        content_.targets.push_back(number(static_cast<std::size_t>(column)));
      }
    } else if (options_.use == LabelUse::classes) {
      add_label(static_cast<std::size_t>(schema_.label_columns[0]));
    }
    content_.lines.push_back(reader_.line());
    ++content_.samples;
  }

  void add_label(std::size_t column) {
    const std::string_view field = reader_.fields()[column];
    if (field.empty()) throw InputError(fmt::format("{}: the label is empty", place(column)));
    if (options_.trained == nullptr) refuse_other_than_utf8(field, column);
    const auto [known, is_new] =
        word_numbers_.try_emplace(std::string(field), static_cast<std::int32_t>(words_.size()));
    if (is_new) words_.push_back(Word{std::string(field), reader_.line()});
    content_.labels.push_back(known->second);
  }

  std::string label_place(const Word& word) const {
    return fmt::format("{} line {}, {}: label {}", origin_, word.line,
                       column_text(static_cast<std::size_t>(schema_.label_columns[0])), quoted(word.text));
  }

  /// The class number of every distinct label text.
  std::vector<std::int32_t> number_words() {
    const auto is_integer = [](const Word& w) { return parse_int64(w.text).has_value(); };
    const bool learning = options_.trained == nullptr;
    const bool words = learning ? std::none_of(words_.begin(), words_.end(),
                                               [](const Word& w) { return number_like(w.text); })
                                : !schema_.class_names.empty();
    if (words && learning) {
      for (const Word& w : words_) schema_.class_names.push_back(w.text);
      std::sort(schema_.class_names.begin(), schema_.class_names.end());
    }
    const bool any_integer = std::any_of(words_.begin(), words_.end(), is_integer);
    std::vector<std::int32_t> numbers;
    for (const Word& w : words_) {
      if (words) {
        const auto at = std::lower_bound(schema_.class_names.begin(), schema_.class_names.end(), w.text);
        if (at == schema_.class_names.end() || *at != w.text) {
          const auto near = nearest_word(w.text, schema_.class_names);
          throw InputError(fmt::format("{} is none of the {} classes of the training file{}", label_place(w),
                                       schema_.class_names.size(),
                                       near ? fmt::format("; nearest: '{}'", *near) : ""));
        }
        numbers.push_back(static_cast<std::int32_t>(at - schema_.class_names.begin()));
        continue;
      }
      const auto value = parse_int64(w.text);
      if (!value) {
        std::string hint;
        if (number_like(w.text)) {
          hint = "; for regression set loss.name = mse";
        } else if (learning && w.line == 1 && !schema_.header && any_integer) {
          hint = fmt::format("; if line 1 is a header, set data.label = {}", w.text);
        } else if (learning) {
          hint = ", while others are: labels must be all integers or all words";
        }
        throw InputError(fmt::format("{} is not an integer{}", label_place(w), hint));
      }
      if (*value < 0)
        throw InputError(fmt::format("{} is negative: classes are numbered from 0", label_place(w)));
      if (*value >= std::numeric_limits<std::int32_t>::max()) {
        throw InputError(fmt::format("{} is too large for a class number", label_place(w)));
      }
      numbers.push_back(static_cast<std::int32_t>(*value));
    }
    return numbers;
  }

  void finish() {
    if (options_.use == LabelUse::classes) {
      const std::vector<std::int32_t> numbers = number_words();
      for (std::int32_t& label : content_.labels) label = numbers[static_cast<std::size_t>(label)];
    }
    if (options_.use == LabelUse::targets)
      content_.target_width = static_cast<std::int64_t>(schema_.label_columns.size());
    content_.description = fmt::format("{} samples of {} from '{}'", content_.samples,
                                       content_.sample_shape.text(), content_.file);
  }

  const CsvOptions& options_;
  std::string origin_;
  std::string text_;
  CsvReader reader_;
  CsvSchema schema_;
  MemoryContent content_;
  std::vector<std::size_t> features_;
  std::vector<Word> words_;
  std::unordered_map<std::string, std::int32_t> word_numbers_;
};

}  // namespace

CsvContent load_csv(const std::string& path, const std::string& key, const CsvOptions& options) {
  return CsvLoader(path, key, options).load();
}

}  // namespace lockstep
