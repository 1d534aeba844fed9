#pragma once

#include <string>

#include "core/numerics/augmentation.h"
#include "core/shape.h"
#include "data/normalized_field.h"
#include "trainer/config/config.h"
#include "trainer/step/compute_device.h"

namespace lockstep {

/// What data.flip and data.crop_padding ask for.
Augmentation augmentation_of(const Config& config);

/// Whether training samples of this shape can be augmented as the config asks: ConfigError otherwise.
void check_augmentation(const Config& config, const Shape& sample);

/// How the training's batches are made. Where the device transforms fields, its kernel that takes an input in
/// does so, since it reads every element anyway; else the loader's threads do. `data` must outlive the
/// result.
BatchFields training_fields(const Config& config, const Graph& graph, const Dataset& data,
                            const Normalizer& normalizer, const ComputeDevice& device);

/// One line for --dry-run; empty where nothing is augmented.
std::string augmentation_text(const Config& config, const ComputeDevice& device);

}  // namespace lockstep
