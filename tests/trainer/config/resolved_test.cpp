// The resolved config, what a resume may change, the table of keys and the ready configs.

#include <algorithm>
#include <filesystem>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/graph/graph.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/ops/loss/mean_squared_error.h"
#include "model/zoo/layers_line.h"
#include "model/zoo/zoo.h"
#include "trainer/config/config.h"
#include "trainer/config/test_support.h"

namespace lockstep {
namespace {

using test::config_of;
using test::minimal;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// ---- The resolved file ----

/// Another good value of each key.
std::string another_value(const ConfigKey& key) {
  if (key.name == "data.shape") return "3x5x7";
  if (key.name == "data.delimiter") return "tab";
  if (key.name == "optimizer.groups") return "*.bias: decay=0; dense1.*: lr=0.1x";
  if (key.name == "model.freeze") return "dense1.*";
  if (key.name == "schedule.milestones") return "3000,6000";
  if (key.name == "schedule.changes") return "40: optimizer.lr=0.5; 90: schedule.steps=200";
  switch (key.kind) {
    case ConfigKey::Kind::text:
      return "some text, with = and \"quotes\"";
    case ConfigKey::Kind::integer:
      return key.name == "run.seed" ? "18446744073709551615" : "7";
    case ConfigKey::Kind::real:
      return key.low < 0.3 ? "0.30000000000000004" : "1.3000000000000003";
    case ConfigKey::Kind::boolean:
      return key.default_text == "true" ? "false" : "true";
    case ConfigKey::Kind::choice:
      return key.choices.back() == key.default_text ? key.choices.front() : key.choices.back();
  }
  return "";
}

/// What resolved_ini says of one key.
std::string resolved_value(const Config& config, const std::string& key) {
  return parse_config_text(resolved_ini(config), "resolved").at(key).value;
}

TEST(ResolvedIni, HoldsEveryKeyAndReadsBackToTheSameConfig) {
  const Config config = config_of(minimal + "optimizer.lr = 1e-08\ntrain.bucket_mb = 0.1\n");
  const std::string text = resolved_ini(config);
  const ConfigValues values = parse_config_text(text, "resolved");
  EXPECT_EQ(values.size(), config_keys().size());
  const Config again = make_config(values);
  EXPECT_EQ(resolved_ini(again), text);
  EXPECT_EQ(again.optimizer.lr, 1e-8);
  EXPECT_EQ(again.train.bucket_mb, 0.1);
  EXPECT_EQ(again.model.layers, config.model.layers);
}

TEST(ResolvedIni, EveryKeyAloneSurvives) {
  // Keys one by one, so that a key which the file forgot, or which sets another one's member, shows.
  for (const ConfigKey& key : config_keys()) {
    const std::string value = another_value(key);
    ASSERT_NE(value, key.default_text);
    const ConfigValues values = parse_config_text(key.name + " = " + value + "\n", "a.ini");
    Config config;
    try {
      config = make_config(values);
    } catch (const ConfigError&) {
      // Alone it does not go together with the defaults; the file must read back all the same.
      std::string text = resolved_ini(Config{});
      const std::string section = "[" + key.name.substr(0, key.name.find('.')) + "]";
      const std::string line = key.name.substr(key.name.find('.') + 1) + " = ";
      const std::size_t at = text.find("\n" + line, text.find(section)) + 1;
      text.replace(at, text.find('\n', at) - at, line + value);
      EXPECT_EQ(parse_config_text(text, "resolved").at(key.name).value, value) << key.name;
      continue;
    }
    EXPECT_EQ(resolved_value(config, key.name), value);
  }
}

TEST(ResolvedIni, NumbersAreExact) {
  Config config = config_of(minimal);
  for (const double lr : {0.1, 1.0 / 3, 5e-324, 123456.789, 3e5}) {
    config.optimizer.lr = lr;
    EXPECT_EQ(make_config(parse_config_text(resolved_ini(config), "r")).optimizer.lr, lr);
  }
}

TEST(ChangedKeys, NamesWhatAResumeMayNotChange) {
  const Config stored = config_of(minimal);
  EXPECT_THAT(changed_keys(stored, stored), IsEmpty());
  Config wanted = stored;
  wanted.train.epochs = 7;
  wanted.train.steps = 100;
  wanted.device.threads = 3;
  wanted.train.bucket_mb = 1;
  wanted.train.overlap = false;
  wanted.optimizer.sharded = false;
  wanted.run.dir = "elsewhere";
  wanted.data.train = "moved.csv";
  wanted.data.test = "moved too.csv";
  wanted.device.plan_cache = "plans.txt";  // a resume takes the checkpoint's plans
  EXPECT_THAT(changed_keys(stored, wanted), IsEmpty()) << "placement keys, train.epochs and train.steps";
  wanted.device.autotune = true;
  EXPECT_THAT(changed_keys(stored, wanted), ElementsAre("device.autotune"));
  wanted.device.autotune = false;
  wanted.optimizer.lr = 0.5;
  wanted.model.layers = "flatten dense:11";
  wanted.run.seed = 2;
  EXPECT_THAT(changed_keys(stored, wanted), ElementsAre("run.seed", "model.layers", "optimizer.lr"));
}

TEST(ResolvedConfig, WithoutPlacementHoldsWhatDecidesBits) {
  const Config config = config_of(minimal);
  Config other = config;
  other.data.train = "elsewhere/train";
  other.data.validation_labels = "labels";
  other.run.dir = "runs/other";
  other.device.threads = 7;
  const std::string text = without_keys(resolved_ini(config), placement_keys());
  EXPECT_NE(resolved_ini(other), resolved_ini(config));
  EXPECT_EQ(without_keys(resolved_ini(other), placement_keys()), text);
  for (const char* part : {"train = ", "test_labels", "dir = ", "threads"})
    EXPECT_THAT(text, Not(HasSubstr(part))) << text;
  EXPECT_THAT(text, AllOf(HasSubstr("[data]\n"), HasSubstr("format = "), HasSubstr("seed = ")));
  other = config;
  other.data.label = "3";
  EXPECT_NE(without_keys(resolved_ini(other), placement_keys()), text);
  EXPECT_EQ(without_keys("no config\n[\n= 3", placement_keys()), "no config\n[\n= 3\n");
}

TEST(ConfigKeys, TableIsSound) {
  std::vector<std::string> names;
  for (const ConfigKey& key : config_keys()) {
    EXPECT_NE(key.name.find('.'), std::string::npos);
    EXPECT_FALSE(key.help.empty()) << key.name;
    EXPECT_LE(key.low, key.high) << key.name;
    names.push_back(key.name);
    // The default is itself a good value.
    EXPECT_NO_THROW(parse_config_text(key.name + " = " + key.default_text, "default")) << key.name;
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::unique(names.begin(), names.end()), names.end());
  for (const char* placement :
       {"device.threads", "train.bucket_mb", "train.overlap", "optimizer.sharded", "data.train",
        "data.train_labels", "data.validation", "data.validation_labels", "data.test", "data.test_labels"}) {
    for (const ConfigKey& key : config_keys()) {
      EXPECT_TRUE(key.name != placement || key.placement) << placement;
    }
  }
}

// ---- The configs that come with Lockstep ----

TEST(ReadyConfigs, AllParse) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(LOCKSTEP_SOURCE_DIR "/configs")) {
    if (entry.path().extension() != ".ini") continue;
    ++count;
    EXPECT_NO_THROW(make_config(read_config_file(entry.path().string()))) << entry.path();
  }
  EXPECT_GE(count, 5);
}

TEST(ReadyConfigs, BuildTheModelsTheyName) {
  const auto graph_of = [](const std::string& name, const Shape& input, std::int64_t outputs,
                           const OpAttrs& loss) {
    const Config c = make_config(read_config_file(LOCKSTEP_SOURCE_DIR "/configs/" + name));
    EXPECT_EQ(c.loss.name == "mse", loss.is<MeanSquaredErrorAttrs>()) << name;
    return c.model.name.empty() ? build_layers(c.model.layers, input, outputs, loss)
                                : build_model(c.model.name, c.model.options, input, outputs, loss);
  };
  const Shape image{1, 28, 28};
  const OpAttrs classes = CrossEntropyAttrs{};
  EXPECT_TRUE(graph_of("fashion_cnn.ini", image, 10, classes).mixes_rows());
  EXPECT_EQ(graph_of("keras_cnn.ini", image, 10, classes).parameter_count(), 54'410);
  EXPECT_EQ(graph_of("mlp_softmax.ini", image, 10, classes).parameter_count(),
            784 * 128 + 128 + 128 * 10 + 10);
  EXPECT_EQ(graph_of("regression_mlp.ini", Shape{10}, 1, MeanSquaredErrorAttrs{}).parameter_count(), 121);
  EXPECT_EQ(graph_of("resnet18_synthetic.ini", Shape{3, 32, 32}, 10, classes).parameter_count(), 11'173'962);
}

}  // namespace
}  // namespace lockstep
