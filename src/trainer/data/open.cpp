#include "trainer/data/open.h"

#include <algorithm>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <limits>
#include <optional>
#include <utility>

#include "core/counted.h"
#include "core/error.h"
#include "core/flight_recorder.h"
#include "core/printable.h"
#include "core/text.h"
#include "data/readers/check_values.h"
#include "data/readers/csv_text.h"
#include "data/readers/idx.h"
#include "data/readers/idx_shards.h"
#include "data/readers/shard_names.h"
#include "data/readers/synthetic.h"
#include "data/split.h"
#include "model/graph/op_table.h"

namespace lockstep {

namespace {

constexpr std::int64_t default_synthetic_classes = 10;

LabelUse use_of(const Config& config) {
  if (find_loss(config.loss.name) == nullptr)
    throw ConfigError(
        fmt::format("loss.name = {} is not known: give {}", config.loss.name, fmt::join(loss_names(), ", ")));
  return loss_takes_labels(config) ? LabelUse::classes : LabelUse::targets;
}

/// A key that the chosen format or loss does not read is refused: nothing is silently ignored.
void refuse_given(bool given, const char* key, const std::string& because) {
  if (given) throw ConfigError(fmt::format("{} is given, but {}: remove it", key, because));
}

void check_keys(const Config& config) {
  const Config::Data& d = config.data;
  const std::string reads = fmt::format("data.format = {} does not read it", d.format);
  if (d.format == "synthetic") {
    refuse_given(!d.train.empty(), "data.train", reads);
    refuse_given(!d.validation.empty(), "data.validation", reads);
    refuse_given(!d.test.empty(), "data.test", reads);
    if (d.samples < 1)
      throw ConfigError("data.format = synthetic needs data.samples, the number of samples to make");
    if (d.shape.empty())
      throw ConfigError("data.format = synthetic needs data.shape, e.g. data.shape = 1x28x28");
  } else if (d.format == "idx" || d.format == "csv") {
    refuse_given(d.samples != 0, "data.samples", reads);
    if (d.train.empty())
      throw ConfigError(fmt::format("data.train is not given: name the {} file to train on", d.format));
  } else {
    throw ConfigError(fmt::format("data.format = {} is not known: give idx, csv or synthetic", d.format));
  }
  if (d.format != "csv") {
    refuse_given(!d.label.empty(), "data.label", reads);
    refuse_given(!d.drop.empty(), "data.drop", reads);
  }
  if (d.format != "idx") {
    refuse_given(!d.train_labels.empty(), "data.train_labels", reads);
    refuse_given(!d.validation_labels.empty(), "data.validation_labels", reads);
    refuse_given(!d.test_labels.empty(), "data.test_labels", reads);
  }
  refuse_given(d.validation.empty() && !d.validation_labels.empty(), "data.validation_labels",
               "data.validation is not");
  refuse_given(d.test.empty() && !d.test_labels.empty(), "data.test_labels", "data.test is not");
  refuse_given(!d.validation.empty() && d.validation_fraction != 0, "data.validation_fraction",
               "so is data.validation, and only one can be the validation split");
  refuse_given(!d.test.empty() && d.test_fraction != 0, "data.test_fraction",
               "so is data.test, and only one can be the test split");
  refuse_given(!loss_takes_labels(config) && d.classes != 0, "data.classes",
               fmt::format("loss.name = {} has no classes", config.loss.name));
  const bool shards =
      d.format == "idx" && (names_shards(d.train) || names_shards(d.validation) || names_shards(d.test));
  const std::string no_shards = "no data set is a set of files, named by a pattern or a list";
  refuse_given(!shards && d.read != "map", "data.read", no_shards);
  refuse_given(!(d.format == "idx" && names_shards(d.train)) && d.window != Config::Data().window,
               "data.window", "data.train names no set of files");
  if (d.format == "idx" && names_shards(d.train)) {
    const std::string apart = "data.train names a set of files, of which no part is taken; name other files";
    refuse_given(d.validation_fraction != 0, "data.validation_fraction", apart + " in data.validation");
    refuse_given(d.test_fraction != 0, "data.test_fraction", apart + " in data.test");
    refuse_given(d.limit != 0, "data.limit", apart);
  }
  if (d.classes < 0 || d.classes > std::numeric_limits<std::int32_t>::max()) {
    throw ConfigError(fmt::format("data.classes = {} is no number of classes", d.classes));
  }
}

Normalizer fit_normalizer(const Config& config, const Dataset& train) {
  Normalizer normalizer = Normalizer::fit(config.data.normalize, train, config.data.format == "synthetic");
  if (config.data.scale_targets == "standard") normalizer.fit_targets(train);
  return normalizer;
}

void refuse_beyond_float32(const DataSets& sets) {
  for (const auto& set : {sets.train, sets.validation, sets.test})
    if (set) refuse_beyond_float32(*set, sets.info);
}

/// What was read of a set of files is only worth something while they are whole.
void check_whole(const DataSets& sets) {
  for (const auto& set : {sets.train, sets.validation, sets.test}) {
    std::int64_t first = 0;
    for (const std::int64_t size : set ? set->shards() : std::span<const std::int64_t>{}) {
      set->check({&first, 1});
      first += size;
    }
  }
}

struct FileKeys {
  const char* file;
  const char* labels;
};

class Opener {
 public:
  Opener(const Config& config, const DataInfo* stored) : config_(config), use_(use_of(config)) {
    check_keys(config);
    if (!config.data.shape.empty()) shape_ = parse_sample_shape(config.data.shape);
    if (stored != nullptr) {
      info_ = *stored;
      known_ = true;
      fitted_ = true;
      check_stored();
    }
  }

  DataSets open(const DataNeeds& needs, Fit fit) {
    const Config::Data& d = config_.data;
    DataSets sets;
    const bool from_train =
        (needs.validation && d.validation_fraction != 0) || (needs.test && d.test_fraction != 0);
    if (!known_ || needs.train || from_train) {
      const std::shared_ptr<const Dataset> file = load_train();
      if (!fitted_) info_.train_file_samples = file->size();
      if (file->size() != info_.train_file_samples) {
        throw InputError(fmt::format(
            "{}: the run began with {} in the training file, so its position and splits mean "
            "nothing here (nor can --allow-data-change help): give back the file it was trained on",
            file->describe(), counted(info_.train_file_samples, "sample")));
      }
      SplitParts parts = split_dataset(
          file, SplitRequest{d.validation_fraction, d.test_fraction, d.limit, config_.run.seed});
      if (!fitted_ && fit == Fit::now) {
        info_.normalizer = fit_normalizer(config_, *parts.train);
        fitted_ = true;
      }
      if (needs.train) sets.train = std::move(parts.train);
      if (needs.validation) sets.validation = std::move(parts.validation);
      if (needs.test) sets.test = std::move(parts.test);
    }
    if (needs.validation && !d.validation.empty()) {
      sets.validation =
          load(d.validation, d.validation_labels, {"data.validation", "data.validation_labels"}, use_);
    }
    if (needs.test && !d.test.empty()) {
      sets.test = load(d.test, d.test_labels, {"data.test", "data.test_labels"}, use_);
    }
    sets.info = info_;
    if (fit == Fit::now) refuse_beyond_float32(sets);
    sets.fitted = fit == Fit::now;
    sets.contents = contents_;
    sets.notes = std::move(notes_);
    return sets;
  }

  InputSamples open_inputs(const std::string& path, const CsvText* text) {
    text_ = text;
    std::shared_ptr<const Dataset> samples = load_inputs(path);
    refuse_beyond_float32(*samples, info_);
    return {std::move(samples), std::move(contents_), std::move(notes_)};
  }

 private:
  std::shared_ptr<const Dataset> load_inputs(const std::string& path) {
    if (config_.data.format == "synthetic") {
      MemoryContent content = load_idx(path, "--input", "", "", LabelUse::none,
                                       ImageOptions{shape_, AxisOrder::channels_first, std::nullopt});
      return checked(std::move(content), "--input");
    }
    return load(path, "", {"--input", ""}, LabelUse::none);
  }

  /// A stored description of other data than the config speaks of is a mistake of the caller's files.
  void check_stored() const {
    if ((use_ == LabelUse::classes) != (info_.classes > 0)) {
      throw InputError(
          "the stored description of the data is for another loss than loss.name: the run directory does not "
          "belong to this config");
    }
    if (config_.data.classes != 0 && config_.data.classes != info_.classes) {
      throw ConfigError(fmt::format("data.classes = {}, but the run was trained with {}",
                                    config_.data.classes, counted(info_.classes, "class")));
    }
  }

  std::shared_ptr<const Dataset> load_train() {
    const Config::Data& d = config_.data;
    if (d.format != "synthetic")
      return load(d.train, d.train_labels, {"data.train", "data.train_labels"}, use_);
    SyntheticOptions options;
    options.samples = d.samples;
    options.shape = *shape_;
    options.seed = config_.run.seed;
    if (use_ == LabelUse::classes) {
      options.classes = d.classes > 0 ? d.classes : default_synthetic_classes;
      if (!known_) info_.classes = options.classes;
    } else {
      options.target_width = 1;
    }
    return checked(make_synthetic(options), "");
  }

  std::shared_ptr<const Dataset> load(const std::string& path, const std::string& labels, FileKeys keys,
                                      LabelUse use) {
    const Config::Data& d = config_.data;
    if (d.format == "idx" && names_shards(path)) {
      OpenedShards shards =
          open_idx_shards(path, keys.file, labels, keys.labels, use, images(),
                          d.read == "map" ? FileAccess::map : FileAccess::read, config_.run.seed);
      check(shards.content, keys.file);
      return shards.data;
    }
    if (d.format == "idx")
      return checked(load_idx(path, keys.file, labels, keys.labels, use, images()), keys.file);
    CsvOptions options;
    options.use = use;
    options.label = d.label;
    options.drop = d.drop;
    options.header = d.header;
    options.delimiter = parse_delimiter(d.delimiter).value_or(',');
    options.shape = shape_;
    options.trained = known_ ? &info_.csv : nullptr;
    // What was decided about the training file holds for it.
    if (known_ && path == d.train && d.header == "auto") options.header = info_.csv.header ? "yes" : "no";
    options.text = text_;
    CsvContent csv = load_csv(path, keys.file, options);
    if (!known_) {
      info_.csv = std::move(csv.schema);
      info_.class_names = info_.csv.class_names;
    }
    for (std::string& warning : csv.warnings) notes_.warnings.push_back(std::move(warning));
    if (!csv.unused.empty())
      notes_.facts.push_back(
          fmt::format("'{}': not used, as the training file has no column of that name: {}", printable(path),
                      list_in_quotes(csv.unused)));
    header_ = csv.header;
    return checked(std::move(csv.content), keys.file);
  }

  /// How to read images. In a run that has begun it is decided.
  ImageOptions images() const {
    const std::string& layout = config_.data.layout;
    const AxisOrder order = layout == "hwc"   ? AxisOrder::channels_last
                            : layout == "chw" ? AxisOrder::channels_first
                                              : AxisOrder::unsaid;
    return {shape_, order, known_ ? std::optional(info_.sample_shape) : std::nullopt};
  }

  /// Learns from the first file, the training file, and holds every later one against it. `key` names a file;
  /// made samples have none.
  std::shared_ptr<const Dataset> checked(MemoryContent content, const std::string& key) {
    check(content, key);
    return std::make_shared<MemoryDataset>(std::move(content));
  }

  void check(MemoryContent& content, const std::string& key) {
    const bool learnt = !known_;
    if (learnt) {
      learn(content);
    } else {
      if (content.sample_shape != info_.sample_shape) {
        throw InputError(fmt::format("the samples of '{}' are {}, but those of the training file {}",
                                     content.file, content.sample_shape.text(), info_.sample_shape.text()));
      }
      if (content.target_width != 0 && content.target_width != info_.target_width) {
        throw InputError(fmt::format("'{}' has {} a sample, but the training file {}", content.file,
                                     counted(content.target_width, "target"), info_.target_width));
      }
    }
    if (!content.labels.empty()) refuse_labels_outside(content, info_.classes);
    if (!key.empty()) contents_.push_back(content_of(key, content, config_.run.seed));
    for (std::string& doubt : content.doubts) notes_.warnings.push_back(std::move(doubt));
    const bool csv = config_.data.format == "csv";
    notes_.facts.push_back(describe_content(content, info_, csv ? &info_.csv : nullptr, header_));
    if (learnt) {
      for (std::string& doubt : doubts_about_labels(content, info_))
        notes_.warnings.push_back(std::move(doubt));
    }
  }

  void learn(const MemoryContent& content) {
    info_.sample_shape = content.sample_shape;
    info_.target_width = content.target_width;
    if (use_ == LabelUse::classes) {
      const auto names = static_cast<std::int64_t>(info_.class_names.size());
      const std::int64_t wanted = config_.data.classes;
      if (names > 0 && wanted != 0 && wanted != names) {
        throw ConfigError(fmt::format("data.classes = {}, but '{}' holds {}", wanted, content.file,
                                      counted(names, "different label")));
      }
      info_.classes = wanted != 0 ? wanted : classes_of(content);
    }
    known_ = true;
  }

  /// data.classes where it is not given.
  static std::int64_t classes_of(const MemoryContent& content) {
    const auto largest = std::max_element(content.labels.begin(), content.labels.end());
    const std::int64_t classes = *largest + std::int64_t{1};
    // A model with an output for every number up to a stray one would end as a lack of memory, far from the
    // cause.
    if (classes > std::max<std::int64_t>(65536, content.samples)) {
      throw InputError(
          fmt::format("{}: label {} would mean {} classes{}: repair the label, or set "
                      "data.classes if it is right",
                      place_of_label(content, largest - content.labels.begin()), *largest, classes,
                      others_reach(content.labels, *largest)));
    }
    return classes;
  }

  const Config& config_;
  LabelUse use_;
  std::optional<Shape> shape_;
  bool header_ = false;            // the CSV file that was read last has one
  const CsvText* text_ = nullptr;  // of the inputs of a prediction, where it was read already
  DataInfo info_;
  std::vector<DataContent> contents_;
  DataNotes notes_;
  bool known_ = false;   // info_ is complete but for the normaliser
  bool fitted_ = false;  // the normaliser too
};

}  // namespace

Shape parse_sample_shape(const std::string& text) {
  std::vector<std::int64_t> dims;
  std::int64_t elements = 1;
  for (const std::string_view part : split(text, 'x')) {
    const auto extent = parse_int64(trim(part));
    if (!extent || *extent < 1 || __builtin_mul_overflow(elements, *extent, &elements)) {
      throw ConfigError(fmt::format(
          "data.shape = {} is no shape: write FEATURES or CHANNELSxHEIGHTxWIDTH, e.g. 1x28x28", text));
    }
    dims.push_back(*extent);
  }
  if (dims.size() != 1 && dims.size() != 3) {
    throw ConfigError(
        fmt::format("data.shape = {} has {}: write FEATURES or CHANNELSxHEIGHTxWIDTH, e.g. 1x28x28", text,
                    counted(static_cast<std::int64_t>(dims.size()), "extent")));
  }
  return Shape(std::move(dims));
}

DataSets open_datasets(const Config& config, const DataNeeds& needs, const DataInfo* stored, Fit fit) {
  return Opener(config, stored).open(needs, fit);
}

void fit_datasets(Communicator& comm, const Config& config, DataSets& sets, bool stored) {
  if (sets.fitted) return;
  std::string text;
  agree_on_error(comm, [&] {
    if (comm.rank() != 0) return;
    const FlightScope scope(comm.recorder(), Activity::load_data);
    if (!stored) sets.info.normalizer = fit_normalizer(config, *sets.train);
    refuse_beyond_float32(sets);
    check_whole(sets);
    text = sets.info.normalizer.to_json();
  });
  text = comm.broadcast_text(text, 0);
  sets.info.normalizer = Normalizer::from_json(text, "the normalisation of rank 0");
  sets.fitted = true;
}

InputSamples open_inputs(const Config& config, const DataInfo& info, const std::string& path,
                         const CsvText* text) {
  return Opener(config, &info).open_inputs(path, text);
}

}  // namespace lockstep
