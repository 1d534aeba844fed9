#include "model/graph/layer_arguments.h"

#include <optional>

#include "core/error.h"
#include "core/text.h"

namespace lockstep {

namespace {

constexpr std::int64_t largest_number = std::int64_t{1} << 40;  // as many elements as a tensor may have

/// A whole number in [low, largest_number], digits only.
std::int64_t read_number(const LayersText& line, Piece piece, std::int64_t low) {
  if (piece.text.empty()) line.fail(piece.begin, "a whole number is missing");
  const std::size_t odd = piece.text.find_first_not_of("0123456789");
  if (odd != std::string_view::npos) {
    line.fail(piece.begin + odd,
              "unexpected " + line.character(piece.begin + odd) + " where a whole number is expected");
  }
  const std::optional<std::int64_t> value = parse_int64(piece.text);
  if (!value || *value > largest_number) {
    line.fail(piece.begin,
              quoted_piece(piece.text) + " is too large; at most " + std::to_string(largest_number));
  }
  if (*value < low)
    line.fail(piece.begin, quoted_piece(piece.text) + " must be at least " + std::to_string(low));
  return *value;
}

/// Between `fewest` and `most` whole numbers joined by 'x'.
std::vector<std::int64_t> read_numbers(const LayersText& line, Piece piece, std::int64_t low,
                                       std::size_t fewest, std::size_t most, const std::string& form) {
  const std::vector<Piece> parts = split_piece(piece, 'x');
  std::vector<std::int64_t> numbers;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i == most) line.fail(parts[i].begin, "one number too many; the form is " + form);
    numbers.push_back(read_number(line, parts[i], low));
  }
  if (numbers.size() < fewest) line.fail(piece.end(), "a number is missing; the form is " + form);
  return numbers;
}

double read_real(const LayersText& line, Piece piece, bool (*allowed)(double), const std::string& range) {
  const DecimalText read = read_decimal(piece.text);
  if (read.kind == DecimalText::Kind::no_number)
    line.fail(piece.begin, quoted_piece(piece.text) + " is not a number");
  if (read.kind == DecimalText::Kind::too_small)
    line.fail(piece.begin, quoted_piece(piece.text) + " is too small for a number of 64 bits");
  if (read.kind == DecimalText::Kind::too_large)
    line.fail(piece.begin, quoted_piece(piece.text) + " is too large for a number of 64 bits");
  if (!allowed(read.value))
    line.fail(piece.begin, quoted_piece(piece.text) + " is out of range; it must be " + range);
  return read.value;
}

}  // namespace

const Piece* LayerArguments::option(std::string_view name) const {
  for (const auto& [key, value] : options_) {
    if (key.text == name) return &value;
  }
  return nullptr;
}

std::vector<std::int64_t> LayerArguments::numbers(std::int64_t low, std::size_t fewest, std::size_t most,
                                                  const std::string& form) const {
  return read_numbers(*line_, numbers_, low, fewest, most, form);
}

double LayerArguments::real(bool (*allowed)(double), const std::string& range) const {
  return read_real(*line_, numbers_, allowed, range);
}

std::int64_t LayerArguments::number(std::string_view name, std::int64_t low, std::int64_t otherwise) const {
  const Piece* value = option(name);
  return value == nullptr ? otherwise : read_number(*line_, *value, low);
}

std::pair<std::int64_t, std::int64_t> LayerArguments::pair(
    std::string_view name, std::int64_t low, std::pair<std::int64_t, std::int64_t> otherwise) const {
  const Piece* value = option(name);
  if (value == nullptr) return otherwise;
  const auto n =
      read_numbers(*line_, *value, low, 1, 2, std::string(name) + "=N or " + std::string(name) + "=HxW");
  return {n.front(), n.back()};
}

double LayerArguments::real(std::string_view name, bool (*allowed)(double), const std::string& range,
                            double otherwise) const {
  const Piece* value = option(name);
  return value == nullptr ? otherwise : read_real(*line_, *value, allowed, range);
}

bool LayerArguments::flag(std::string_view name, bool otherwise) const {
  const Piece* value = option(name);
  if (value == nullptr) return otherwise;
  if (value->text != "0" && value->text != "1")
    line_->fail(value->begin, std::string(name) + " must be 0 or 1");
  return value->text == "1";
}

}  // namespace lockstep
