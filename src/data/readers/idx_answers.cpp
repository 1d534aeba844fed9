#include "data/readers/idx_answers.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fmt/format.h>
#include <limits>

#include "core/counted.h"
#include "core/error.h"
#include "data/readers/byte_order.h"

namespace lockstep {

namespace {

/// Adds the answers of a labels file to a content.
void add_labels(MemoryContent& content, const IdxArray& labels, LabelUse use) {
  const std::int64_t n = labels.dims[0];
  if (use == LabelUse::targets) {
    content.target_width = labels.elements() / n;
    content.targets = to_floats(labels);
    MemoryContent place;
    place.file = labels.path;
    refuse_non_finite(place, content.targets, content.target_width, "target");
    return;
  }
  if (labels.dims.size() != 1) {
    throw InputError(
        fmt::format("{} is {}: labels of classes have one dimension", labels.origin, labels.shape_text()));
  }
  const auto is_whole = [](double v) { return std::floor(v) == v && std::isfinite(v); };
  std::int64_t whole = 0;
  for (std::int64_t i = 0; i < n; ++i) whole += is_whole(labels.value(i)) ? 1 : 0;
  content.labels.resize(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) {
    const double label = labels.value(i);
    const auto refuse = [&](const std::string& what) {
      throw InputError(fmt::format("{}: label of sample {} is {:.9g}, {}", labels.origin, i, label, what));
    };
    if (!is_whole(label)) {
      refuse(fmt::format("but labels of classes are integers{}; for regression set loss.name = mse",
                         whole == n - 1 && n > 2 ? fmt::format(", as the other {} are", n - 1) : ""));
    }
    if (label < 0) refuse("but classes are numbered from 0");
    if (label >= std::numeric_limits<std::int32_t>::max()) refuse("too large for a class number");
    content.labels[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(label);
  }
}

}  // namespace

std::string default_labels_path(const std::string& images) {
  const std::size_t slash = images.rfind('/');
  const std::size_t name = slash == std::string::npos ? 0 : slash + 1;
  for (const std::string separator : {"-", "."}) {
    const std::string part = "images" + separator + "idx";
    const std::size_t at = images.rfind(part);
    if (at == std::string::npos || at < name) continue;
    const std::size_t digit = at + part.size();
    if (digit >= images.size() || images[digit] < '1' || images[digit] > '9') continue;
    return images.substr(0, at) + "labels" + separator + "idx1" + images.substr(digit + 1);
  }
  return "";
}

std::string find_labels(const std::string& images, const std::string& images_key, const std::string& labels,
                        const std::string& labels_key) {
  if (!labels.empty()) return labels;
  std::string path = default_labels_path(images);
  if (path.empty()) {
    throw ConfigError(
        fmt::format("the labels of '{}' ({}) are not known: its name has no part 'images-idx3', so give {}",
                    images, images_key, labels_key));
  }
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored)) return path;
  // One of the two may have been unpacked.
  std::string other = path.ends_with(".gz") ? path.substr(0, path.size() - 3) : path + ".gz";
  if (std::filesystem::exists(other, ignored)) return other;
  throw InputError(fmt::format("'{}' ({}) needs a labels file, but neither '{}' nor '{}' exists: give {}",
                               images, images_key, path, other, labels_key));
}

void read_answers(MemoryContent& content, const IdxArray& images, const std::string& path,
                  const std::string& key, LabelUse use) {
  const IdxArray answers = read_idx(path, key);
  if (answers.dims[0] != content.samples) {
    throw InputError(fmt::format("{} holds {}, but {} holds {}: they do not belong together", images.origin,
                                 counted(content.samples, "sample"), answers.origin,
                                 counted(answers.dims[0], "label")));
  }
  content.labels_file = answers.path;
  look_at_byte_order(answers, use == LabelUse::classes, content.doubts);
  add_labels(content, answers, use);
}

}  // namespace lockstep
