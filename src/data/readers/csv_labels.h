#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace lockstep {

/// The distinct labels of a file of classes, in the order in which they come, to be judged once all are
/// known.
class CsvLabels {
 public:
  struct Label {
    std::string text;
    std::int64_t line = 0;   ///< where it first stands
    std::int64_t count = 0;  ///< of samples
  };

  /// The place of the label among the distinct ones.
  std::int32_t add(std::string_view text, std::int64_t line);

  /// The class number of every distinct label. `learning`: labels are words throughout, which are then sorted
  /// into `names`, or whole numbers from 0 throughout. Otherwise they follow `names`: words among these, or
  /// numbers where it is empty. Everything else is an InputError that names the label that is unlike the
  /// others, at "`origin` line N, `column`".
  std::vector<std::int32_t> class_numbers(std::vector<std::string>& names, bool learning,
                                          const std::string& origin, const std::string& column) const;

 private:
  std::vector<Label> labels_;
  std::unordered_map<std::string, std::int32_t> places_;
};

}  // namespace lockstep
