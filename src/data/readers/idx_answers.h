#pragma once

#include <string>

#include "data/readers/idx.h"

namespace lockstep {

/// The labels file that belongs to an images file by name: "images-idx3" (or "images.idx3", any one digit)
/// becomes "labels-idx1". Empty when the name has no such part.
std::string default_labels_path(const std::string& images);

/// The labels file to read, which exists when the user named none: ConfigError, InputError otherwise.
std::string find_labels(const std::string& images, const std::string& images_key, const std::string& labels,
                        const std::string& labels_key);

/// Reads the labels or targets of `images` from `path` into `content`, whose `samples` is known. Errors as
/// in load_idx().
void read_answers(MemoryContent& content, const IdxArray& images, const std::string& path,
                  const std::string& key, LabelUse use);

}  // namespace lockstep
