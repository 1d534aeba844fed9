#include "trainer/run/odd_labels.h"

#include <algorithm>
#include <fmt/format.h>
#include <map>

#include "core/counted.h"
#include "data/readers/csv_text.h"

namespace lockstep {
namespace {

struct Occurrence {
  std::int64_t count = 0;
  const Dataset* set = nullptr;  // of the first
  std::int64_t index = 0;
};
using Occurrences = std::map<std::int64_t, Occurrence>;

Occurrences occurrences(const DataSets& data) {
  Occurrences found;
  for (const auto& set : {data.train, data.validation, data.test}) {
    if (!set || !find_field(set->fields(), label_field)) continue;
    const FieldColumn labels(*set, label_field);
    for (std::int64_t i = 0; i < set->size(); ++i) {
      Occurrence& label = found[labels.integer(i)];
      if (label.count++ == 0) label = {1, set.get(), i};
    }
  }
  return found;
}

std::string place_of_first(const Occurrence& label) {
  return label.set->where(label.index);
}

std::string of_words(const Occurrences& found, const DataInfo& info, std::int64_t outputs) {
  const auto rarer = [](const auto& a, const auto& b) { return a.second.count < b.second.count; };
  const auto rarest = std::min_element(found.begin(), found.end(), rarer);
  std::int64_t least = 0;  // of the others
  std::vector<std::string> names;
  constexpr std::size_t most_named = 10;
  for (const auto& [label, occurrence] : found) {
    if (label == rarest->first) continue;
    least = least == 0 ? occurrence.count : std::min(least, occurrence.count);
    if (names.size() < most_named) names.push_back(info.class_name(label));
  }
  if (names.empty()) return "";
  std::string others = list_in_quotes(names);
  if (found.size() - 1 > names.size()) others += fmt::format(" and {} more", found.size() - 1 - names.size());
  return fmt::format(
      "the labels are {} different words, {} more than the model has outputs: the rarest is {} with {} (the "
      "first: {}), and each other has at least {}: {}; is one misspelt?",
      found.size(), static_cast<std::int64_t>(found.size()) - outputs,
      in_quotes(info.class_name(rarest->first)), counted(rarest->second.count, "sample"),
      place_of_first(rarest->second), least, others);
}

}  // namespace

std::string odd_labels(const DataSets& data, std::int64_t outputs) {
  const DataInfo& info = data.info;
  if (info.classes <= outputs || outputs < 1) return "";
  const Occurrences found = occurrences(data);
  const auto beyond = found.lower_bound(outputs);  // labels that the model has no output for
  if (beyond == found.end()) return "";
  if (!info.class_names.empty()) return of_words(found, info, outputs);
  const std::int64_t smallest = found.begin()->first, largest = found.rbegin()->first;
  if (smallest == 1 && largest == outputs)
    return fmt::format(
        "the labels are 1 to {} (the first {}: {}), and classes are numbered from 0: number the labels from "
        "0",
        largest, largest, place_of_first(beyond->second));
  std::int64_t samples = 0;
  for (auto label = beyond; label != found.end(); ++label) samples += label->second.count;
  const std::string others = beyond == found.begin() ? ""
                                                     : fmt::format(", and the others are {} to {}", smallest,
                                                                   std::prev(beyond)->first);
  return fmt::format("{} {} a label above {}: {} has label {}{}", counted(samples, "sample"),
                     samples == 1 ? "has" : "have", outputs - 1, place_of_first(beyond->second),
                     beyond->first, others);
}

}  // namespace lockstep
