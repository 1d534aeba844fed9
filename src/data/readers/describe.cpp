#include "data/readers/describe.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fmt/format.h>
#include <map>

#include "core/error.h"
#include "core/printable.h"
#include "core/text.h"
#include "data/readers/csv_header.h"
#include "data/readers/csv_reader.h"
#include "data/readers/csv_survey.h"
#include "data/readers/csv_text.h"
#include "data/readers/gzip.h"
#include "data/readers/idx.h"

namespace lockstep {

namespace {

constexpr std::uint64_t most_text = std::uint64_t{16} << 30;

std::string packing(const InputFile& file) {
  return fmt::format("{}{}", human_bytes(file.stored_bytes()), file.compressed() ? ", gzip" : "");
}

std::string describe_idx(const std::string& path) {
  const IdxArray array = read_idx(path, "");
  std::string text = fmt::format("{}: IDX, {}, {}\n", printable(path, 200), array.shape_text(),
                                 packing(InputFile(path, "")));
  double low = INFINITY;
  double high = -INFINITY;
  double sum = 0;
  std::int64_t not_finite = 0;
  std::map<double, std::int64_t> counts;
  constexpr std::size_t most_counted = 100;
  for (std::int64_t i = 0; i < array.elements(); ++i) {
    const double v = array.value(i);
    if (!std::isfinite(v)) {
      ++not_finite;
      continue;
    }
    low = std::min(low, v);
    high = std::max(high, v);
    sum += v;
    if (array.dims.size() == 1 && counts.size() <= most_counted) ++counts[v];
  }
  const auto finite = static_cast<double>(array.elements() - not_finite);
  if (finite > 0) text += fmt::format("values {:g} to {:g}, mean {:.6g}\n", low, high, sum / finite);
  if (not_finite > 0) text += fmt::format("{} values are NaN or infinite\n", not_finite);
  if (!counts.empty() && counts.size() <= most_counted) {
    for (const auto& [value, count] : counts) text += fmt::format("  {:g}: {} times\n", value, count);
  }
  return text;
}

bool is_finite_number(std::string_view field) {
  return std::isfinite(read_decimal(field).value) && read_decimal(field).kind != DecimalText::Kind::no_number;
}

std::string describe_csv(const std::string& path) {
  InputFile file(path, "");
  const std::string content = read_all(file, most_text);
  const auto head = std::as_bytes(std::span(content)).first(std::min<std::size_t>(content.size(), 512));
  if (!looks_like_text(head)) {
    throw InputError(fmt::format("{} is neither an IDX nor a CSV file: it looks like {}", file.origin(),
                                 guess_kind(head)));
  }
  // Nothing tells what separates the fields but the first line.
  const CsvSource source{content, file.origin(), likely_delimiter(content, ',').value_or(',')};
  CsvReader reader(content, file.origin(), source.delimiter);
  if (!reader.next()) throw InputError(fmt::format("{} holds no line of data", file.origin()));
  std::vector<std::string> first(reader.fields().begin(), reader.fields().end());
  std::vector<std::int64_t> words(first.size());
  std::int64_t records = 0;
  while (reader.next()) {
    ++records;
    if (reader.fields().size() != first.size())
      refuse_field_count(source, reader.line(), reader.fields().size(), first.size());
    for (std::size_t i = 0; i < first.size(); ++i) words[i] += is_finite_number(reader.fields()[i]) ? 0 : 1;
  }
  const bool header = std::none_of(first.begin(), first.end(), number_like);
  // Numbers as pandas names columns, perhaps behind an index without a name, and a word for the label.
  const auto begin = first.begin() + (first.front().empty() ? 1 : 0);
  std::vector<std::string_view> counting(begin, first.end());
  if (!counting.empty() && !number_like(counting.back())) counting.pop_back();
  const bool doubtful = counting.size() > 1 && counts_columns(counting);
  std::string text = fmt::format(
      "{}: CSV, {} lines of data, {} columns, {}{}, {}\n", printable(path, 200), records + (header ? 0 : 1),
      first.size(),
      header     ? "with a header"
      : doubtful ? "no header, unless the first line is one: it counts the columns"
                 : "no header",
      source.delimiter == ',' ? "" : ", separated by " + delimiter_name(source.delimiter), packing(file));
  constexpr std::size_t most_columns = 40;
  for (std::size_t i = 0; i < std::min(first.size(), most_columns); ++i) {
    text += fmt::format("  {}: {}{}\n", i, header ? "'" + printable(first[i], 60) + "', " : "",
                        words[i] == 0 ? "numbers" : fmt::format("{} not finite numbers", words[i]));
  }
  if (first.size() > most_columns) text += fmt::format("  … and {} more\n", first.size() - most_columns);
  return text;
}

}  // namespace

bool is_idx_file(const std::string& path) {
  InputFile file(path, "");
  std::array<std::byte, 4> head{};
  if (file.read(head) < head.size()) return false;
  const auto at = [&](std::size_t i) { return std::to_integer<int>(head[i]); };
  return at(0) == 0 && at(1) == 0 && at(2) >= 0x08 && at(2) <= 0x0E && at(2) != 0x0A && at(3) >= 1 &&
         at(3) <= 8;
}

std::string describe_data_file(const std::string& path) {
  return is_idx_file(path) ? describe_idx(path) : describe_csv(path);
}

}  // namespace lockstep
