#include "data/readers/csv.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fmt/format.h>
#include <limits>
#include <utility>

#include "core/counted.h"
#include "core/error.h"
#include "core/text.h"
#include "core/utf8.h"
#include "data/readers/csv_index.h"
#include "data/readers/csv_labels.h"
#include "data/readers/csv_reader.h"
#include "data/readers/csv_survey.h"
#include "data/readers/csv_text.h"
#include "data/readers/gzip.h"

namespace lockstep {

namespace {

/// The text is held in memory while it is parsed.
constexpr std::uint64_t most_text = std::uint64_t{16} << 30;

class CsvLoader {
 public:
  CsvLoader(const std::string& path, const std::string& key, const CsvOptions& options)
      : options_(options),
        text_(read(path, key)),
        source_{text_, origin_, options.text != nullptr ? options.text->delimiter : options.delimiter},
        reader_(text_, origin_, source_.delimiter) {
    content_.file = path;
  }

  CsvContent load() {
    if (!reader_.next()) throw InputError(fmt::format("{} holds no line of data", origin_));
    if (options_.trained == nullptr) {
      schema_ = learn_csv_schema(source_, reader_.fields(), reader_.line(), options_);
      columns_ = columns_of(schema_);
    } else {
      schema_ = *options_.trained;
      columns_ = match_csv_columns(source_, reader_.fields(), reader_.line(), options_);
    }
    find_shape();
    if (columns_.header && !reader_.next()) {
      throw InputError(fmt::format("{} holds a header line and no data", origin_));
    }
    IndexWatch watch(columns_);
    do {
      add_record(watch);
    } while (reader_.next());
    finish();
    CsvContent loaded{
        std::move(content_), std::move(schema_), std::move(columns_.unused), columns_.header, {}};
    if (options_.trained == nullptr)
      loaded.warnings = watch.findings(origin_, loaded.content.samples, loaded.content.floats);
    return loaded;
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

  std::string place(std::size_t column) const {
    return fmt::format("{} line {}, {}", origin_, reader_.line(), column_text(columns_, column));
  }

  void find_shape() {
    const auto width = static_cast<std::int64_t>(columns_.features.size());
    content_.sample_shape = options_.shape.value_or(Shape{width});
    if (content_.sample_shape.elements() != width) {
      throw ConfigError(fmt::format("data.shape = {} has {}, but {} has {}", content_.sample_shape.text(),
                                    counted(content_.sample_shape.elements(), "element"), origin_,
                                    counted(width, "feature column")));
    }
  }

  /// A number that float64 is too coarse for is 0, as every reader of tables takes it.
  double number(std::size_t column) const {
    const std::string_view field = trim(reader_.fields()[column]);
    const DecimalText read = read_decimal(field);
    if (read.kind == DecimalText::Kind::no_number) refuse_number(column, field);
    constexpr double to_infinity = 0x1.ffffffp127;  // from here on float32 rounds to infinity
    if (std::abs(read.value) >= to_infinity) {
      throw InputError(fmt::format("{}: {} is too large: it is beyond the range of float32, {:.7g}",
                                   place(column), in_quotes(field), std::numeric_limits<float>::max()));
    }
    return read.value;
  }

  [[noreturn]] void refuse_number(std::size_t column, std::string_view field) const {
    std::string what;
    if (field.empty()) {
      what = "the field is empty, a number must stand there";
    } else if (number_like(field)) {
      what = in_quotes(field) + " is not a finite number: repair or drop the sample";
    } else {
      std::string with_point(field);
      std::replace(with_point.begin(), with_point.end(), ',', '.');
      const bool comma = with_point != field && parse_double(with_point);
      what = in_quotes(field) + " is not a number" + (comma ? ": write a decimal point, not a comma" : "");
    }
    throw InputError(
        fmt::format("{}: {}{}", place(column), what, other_fields(source_, columns_, column, options_)));
  }

  void add_record(IndexWatch& watch) {
    const std::vector<std::string_view>& fields = reader_.fields();
    if (fields.size() != columns_.names.size())
      refuse_field_count(source_, reader_.line(), fields.size(), columns_.names.size());
    for (std::size_t i = 0; i < columns_.features.size(); ++i) {
      const double value = number(columns_.features[i]);
      if (options_.trained == nullptr) watch.add(i, value);
      content_.floats.push_back(static_cast<float>(value));
    }
    if (options_.use == LabelUse::targets) {
      for (const std::size_t column : columns_.labels)
        content_.targets.push_back(static_cast<float>(number(column)));
    } else if (options_.use == LabelUse::classes) {
      add_label(columns_.labels[0]);
    }
    content_.lines.push_back(reader_.line());
    ++content_.samples;
  }

  void add_label(std::size_t column) {
    const std::string_view field = reader_.fields()[column];
    if (field.empty())
      throw InputError(fmt::format("{}: the label is empty{}", place(column),
                                   empty_column(source_, columns_, column, options_)));
    if (options_.trained == nullptr && !is_utf8(field))
      throw InputError(fmt::format("{}: the name is not UTF-8 text: save the file as UTF-8", place(column)));
    content_.labels.push_back(labels_.add(field, reader_.line()));
  }

  void finish() {
    if (options_.use == LabelUse::classes) {
      const std::vector<std::int32_t> numbers =
          labels_.class_numbers(schema_.class_names, options_.trained == nullptr, origin_,
                                column_text(columns_, columns_.labels[0]));
      for (std::int32_t& label : content_.labels) label = numbers[static_cast<std::size_t>(label)];
    }
    if (options_.use == LabelUse::targets)
      content_.target_width = static_cast<std::int64_t>(columns_.labels.size());
    content_.description = fmt::format("{} of {} from '{}'", counted(content_.samples, "sample"),
                                       content_.sample_shape.text(), content_.file);
  }

  const CsvOptions& options_;
  std::string origin_;
  std::string text_;
  CsvSource source_;
  CsvReader reader_;
  CsvSchema schema_;
  CsvColumns columns_;
  MemoryContent content_;
  CsvLabels labels_;
};

}  // namespace

CsvContent load_csv(const std::string& path, const std::string& key, const CsvOptions& options) {
  return CsvLoader(path, key, options).load();
}

}  // namespace lockstep
