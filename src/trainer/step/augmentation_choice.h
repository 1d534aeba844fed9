#pragma once

#include <string>

#include "core/numerics/augmentation.h"
#include "core/shape.h"
#include "trainer/config/config.h"
#include "trainer/step/compute_device.h"

namespace lockstep {

/// What data.flip and data.crop_padding ask for.
Augmentation augmentation_of(const Config& config);

/// Whether training samples of this shape can be augmented as the config asks: ConfigError otherwise.
void check_augmentation(const Config& config, const Shape& sample);

/// Whether the device augments, where anything is: its kernel that takes the input in reads every element
/// anyway. Else the loader's threads do.
bool device_augments(const Config& config, const ComputeDevice& device);

/// One line for --dry-run; empty where nothing is augmented.
std::string augmentation_text(const Config& config, const ComputeDevice& device);

}  // namespace lockstep
