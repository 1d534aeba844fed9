#include <algorithm>
#include <fmt/format.h>

#include "core/text.h"
#include "model/graph/op_table.h"
#include "model/zoo/zoo.h"
#include "trainer/config/key_row.h"

namespace lockstep::keys {
namespace {

/// An option of the zoo's models: kept as text, left out when empty. The zoo checks its value.
Row zoo_option(const std::string& name, const std::string& help) {
  Row r;
  r.key.name = "model." + name;
  r.key.help = help;
  r.get = [name](const Config& c) {
    const auto found = c.model.options.find(name);
    return found == c.model.options.end() ? std::string() : found->second;
  };
  r.set = [name](const ConfigKey& key, const std::string& text, const std::string& where, Config& c) {
    std::string value;
    from_text(key, text, where, value);
    if (value.empty()) {
      c.model.options.erase(name);
    } else {
      c.model.options[name] = value;
    }
  };
  return r;
}

/// Rows of all options of the zoo, an option that several models have once.
std::vector<Row> zoo_options() {
  std::vector<Row> rows;
  for (const ZooEntry& model : zoo_entries()) {
    for (const ZooOption& option : model.options) {
      const auto same = std::find_if(rows.begin(), rows.end(),
                                     [&](const Row& r) { return r.key.name == "model." + option.name; });
      const std::string help =
          fmt::format("{}: {} (default {})", model.name, option.help, option.default_text);
      if (same == rows.end()) {
        rows.push_back(zoo_option(option.name, help));
      } else {
        same->key.help += "; " + help;
      }
    }
  }
  return rows;
}

bool is_shape(std::string_view text) {
  const auto fields = split(text, 'x');
  return fields.size() <= 3 && std::all_of(fields.begin(), fields.end(), [](std::string_view f) {
           const auto v = parse_int64(f);
           return v && *v >= 1 && *v <= 1'000'000'000;
         });
}

using C = Config;
constexpr double most_samples = 1e12;

}  // namespace

void add_model_and_data(std::vector<ConfigBinding>& t) {
  const auto run = &C::run;
  t.push_back(row("run.dir", run, &C::Run::dir, "run directory (default: runs/ and the config file's name)")
                  .placement());
  t.push_back(
      row("run.seed", run, &C::Run::seed, "seed of every random number").between(0, 18446744073709551615.0));

  const auto model = &C::model;
  std::vector<std::string> zoo;
  for (const ZooEntry& entry : zoo_entries()) zoo.push_back(entry.name);
  zoo.emplace_back(custom_model);
  t.push_back(
      row("model.name", model, &C::Model::name, "a model of the zoo, or custom: what a C++ program builds")
          .one_of(zoo));
  t.push_back(row("model.layers", model, &C::Model::layers,
                  "one line of layers: conv:32x3 relu maxpool:2 flatten dense:10"));
  t.push_back(row("model.freeze", model, &C::Model::freeze,
                  "parameters that keep their values, by name: patterns such as conv*.weight, stem.*"));
  for (Row& option : zoo_options()) t.push_back(std::move(option));
  t.push_back(row("loss.name", &C::loss, &C::Loss::name, "what is minimised").one_of(loss_names()));
  t.push_back(row("loss.label_smoothing", &C::loss, &C::Loss::label_smoothing,
                  "cross_entropy: the share of every label that is spread over all classes")
                  .between(0, 1)
                  .below(1));
  t.push_back(row("loss.class_weights", &C::loss, &C::Loss::class_weights,
                  "cross_entropy: a weight for each class, joined by commas"));
  t.push_back(row("loss.delta", &C::loss, &C::Loss::delta, "huber: where the square ends and the line begins")
                  .above(0));

  const auto data = &C::data;
  t.push_back(row("data.format", data, &C::Data::format, "kind of the data files")
                  .one_of({"idx", "csv", "synthetic"}));
  t.push_back(row("data.train", data, &C::Data::train,
                  "training data: CSV file, IDX images, or a pattern or list of IDX files")
                  .placement());
  t.push_back(row("data.train_labels", data, &C::Data::train_labels,
                  "IDX labels (default: beside the images, by name)")
                  .placement());
  t.push_back(row("data.test", data, &C::Data::test, "test data").placement());
  t.push_back(
      row("data.test_labels", data, &C::Data::test_labels, "IDX labels of the test data").placement());
  t.push_back(row("data.validation", data, &C::Data::validation, "validation data").placement());
  t.push_back(
      row("data.validation_labels", data, &C::Data::validation_labels, "IDX labels of the validation data")
          .placement());
  t.push_back(row("data.label", data, &C::Data::label,
                  "CSV: label column(s) by name or 0-based index, comma separated (default: the last)"));
  t.push_back(row("data.drop", data, &C::Data::drop,
                  "CSV: columns to leave out, by name or 0-based index, comma separated"));
  t.push_back(row("data.header", data, &C::Data::header,
                  "CSV: whether the first line names the columns (auto: where its content shows it)")
                  .one_of({"auto", "yes", "no"}));
  t.push_back(row("data.delimiter", data, &C::Data::delimiter,
                  "CSV: what separates fields: , ; | : or tab, or space for any run of blanks")
                  .delimiter());
  t.push_back(row("data.layout", data, &C::Data::layout,
                  "IDX images of 3 axes: chw (channels first), hwc (channels last), auto: chw if clear")
                  .one_of({"auto", "chw", "hwc"}));
  t.push_back(row("data.validation_fraction", data, &C::Data::validation_fraction,
                  "part of the training file that is kept for validation")
                  .between(0, 1)
                  .below(1));
  t.push_back(row("data.test_fraction", data, &C::Data::test_fraction,
                  "part of the training file that is kept for the test")
                  .between(0, 1)
                  .below(1));
  t.push_back(row("data.normalize", data, &C::Data::normalize,
                  "inputs: unit is x/255, standard is (x - mean) / deviation of the training split")
                  .one_of({"auto", "none", "unit", "standard"}));
  t.push_back(row("data.scale_targets", data, &C::Data::scale_targets,
                  "mse: standard learns (target - mean) / deviation of the training split; predictions are "
                  "in the units of the data all the same")
                  .one_of({"none", "standard"}));
  t.push_back(
      row("data.shape", data, &C::Data::shape, "shape of a sample, e.g. 1x28x28 (CSV images, synthetic)")
          .such_as(is_shape, "a shape such as 1x28x28"));
  t.push_back(row("data.classes", data, &C::Data::classes, "number of classes (0: the largest label + 1)")
                  .between(0, 1e8));
  t.push_back(
      row("data.samples", data, &C::Data::samples, "synthetic: samples to make").between(0, most_samples));
  t.push_back(row("data.workers", data, &C::Data::workers, "loader threads per rank; 0: load within the step")
                  .between(0, 256)
                  .placement());
  t.push_back(row("data.read", data, &C::Data::read,
                  "IDX files named by a pattern: map them into memory, or read each sample when it is needed")
                  .one_of({"map", "read"})
                  .placement());
  t.push_back(row("data.window", data, &C::Data::window,
                  "IDX files named by a pattern: how many of them at a time have their samples mixed")
                  .between(1, 1'000'000));
  t.push_back(row("data.limit", data, &C::Data::limit, "use only so many training samples (0: all)")
                  .between(0, most_samples));
  t.push_back(row("data.flip", data, &C::Data::flip,
                  "training images: mirror each left to right with probability 1/2, anew in every epoch"));
  t.push_back(row("data.crop_padding", data, &C::Data::crop_padding,
                  "training images: crop each at random out of itself and so many pixels around (0: do not)")
                  .between(0, 65535));
}

}  // namespace lockstep::keys
