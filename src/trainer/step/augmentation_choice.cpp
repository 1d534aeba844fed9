#include "trainer/step/augmentation_choice.h"

#include <algorithm>
#include <fmt/format.h>

#include "core/counted.h"
#include "core/error.h"

namespace lockstep {

Augmentation augmentation_of(const Config& config) {
  Augmentation a;
  a.flip = config.data.flip;
  a.crop_padding = static_cast<std::int32_t>(config.data.crop_padding);
  a.seed = config.run.seed;
  return a;
}

void check_augmentation(const Config& config, const Shape& sample) {
  const Config::Data& d = config.data;
  if (!augmentation_of(config).any()) return;
  const std::string key = d.flip ? "data.flip = true" : fmt::format("data.crop_padding = {}", d.crop_padding);
  if (sample.rank() != 3 || sample[1] < 2 || sample[2] < 2) {
    throw ConfigError(fmt::format(
        "{}: it is for images (CHANNELSxHEIGHTxWIDTH, at least 2x2), but the samples are {}: leave "
        "it out, or say with data.shape what images they are",
        key, sample.text()));
  }
  const std::int64_t least = std::min(sample[1], sample[2]);
  if (d.crop_padding >= least) {
    throw ConfigError(fmt::format(
        "data.crop_padding = {}: the images are {}, and a crop could lie wholly outside: give at most {}",
        d.crop_padding, sample.text(), least - 1));
  }
}

BatchFields training_fields(const Config& config, const Graph& graph, const Dataset& data,
                            const Normalizer& normalizer, const ComputeDevice& device) {
  return batch_fields(graph.fields, data, normalizer, augmentation_of(config), device.transforms_fields);
}

std::string augmentation_text(const Config& config, const ComputeDevice& device) {
  const Config::Data& d = config.data;
  if (!augmentation_of(config).any()) return "";
  std::string what;
  if (d.crop_padding > 0)
    what = fmt::format("cropped out of {} of padding", counted(d.crop_padding, "pixel"));
  if (d.flip) what += fmt::format("{}mirrored with probability 1/2", what.empty() ? "" : ", ");
  return fmt::format(
      "training images: {}, {}\n", what,
      device.transforms_fields ? "by the device where it takes them in" : "by the loader's threads");
}

}  // namespace lockstep
