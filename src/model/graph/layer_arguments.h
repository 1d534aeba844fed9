#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/graph/layer_text.h"

namespace lockstep {

/// What follows the colon of one layer in model.layers, split: the numbers, then options as name=value. Every
/// function throws ConfigError that shows the line with a caret under the character that is wrong.
class LayerArguments {
 public:
  explicit LayerArguments(const LayersText& line) : line_(&line) {}

  /// Between `fewest` and `most` whole numbers joined by 'x', each at least `low`; `form` is for messages.
  std::vector<std::int64_t> numbers(std::int64_t low, std::size_t fewest, std::size_t most,
                                    const std::string& form) const;
  /// The one real number before the options; `range` says in words what `allowed` allows.
  double real(bool (*allowed)(double), const std::string& range) const;

  // Of an option, or `otherwise` where it is not given:
  std::int64_t number(std::string_view option, std::int64_t low, std::int64_t otherwise) const;
  /// (height, width) from "2" or "2x1".
  std::pair<std::int64_t, std::int64_t> pair(std::string_view option, std::int64_t low,
                                             std::pair<std::int64_t, std::int64_t> otherwise) const;
  double real(std::string_view option, bool (*allowed)(double), const std::string& range,
              double otherwise) const;
  /// "0" or "1".
  bool flag(std::string_view option, bool otherwise) const;

  // For the one who splits the line:
  void set_numbers(Piece numbers) { numbers_ = numbers; }
  void add_option(Piece name, Piece value) { options_.emplace_back(name, value); }
  const Piece* option(std::string_view name) const;

 private:
  const LayersText* line_;
  Piece numbers_;
  std::vector<std::pair<Piece, Piece>> options_;
};

}  // namespace lockstep
