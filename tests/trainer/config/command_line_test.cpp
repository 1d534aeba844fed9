#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/text.h"
#include "trainer/config/config.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

CommandLine parse(std::vector<const char*> words) {
  words.insert(words.begin(), "lockstep");
  return parse_command_line(static_cast<int>(words.size()), words.data());
}

std::string refusal(const std::vector<const char*>& words) {
  try {
    parse(words);
  } catch (const ConfigError& e) {
    EXPECT_THAT(e.what(), Not(HasSubstr("\n")));
    return e.what();
  }
  ADD_FAILURE() << "no ConfigError";
  return "";
}

TEST(CommandLine, TrainTakesKeysAsFlagsInBothForms) {
  const CommandLine line = parse({"train", "--config", "a.ini", "--train.epochs", "3", "--optimizer.lr=0.5"});
  EXPECT_EQ(line.command, "train");
  EXPECT_EQ(line.config_file, "a.ini");
  EXPECT_EQ(line.overrides.at("train.epochs").value, "3");
  EXPECT_EQ(line.overrides.at("train.epochs").origin, "--train.epochs");
  EXPECT_EQ(line.overrides.at("optimizer.lr").value, "0.5");
  EXPECT_THAT(line.arguments, IsEmpty());
}

TEST(CommandLine, AFlagWinsOverTheFile) {
  ConfigValues values = parse_config_text("model.name = mlp\ndata.train = a\ntrain.epochs = 1\n", "a.ini");
  const CommandLine line = parse({"train", "--config", "a.ini", "--train.epochs", "3"});
  for (const auto& [key, source] : line.overrides) values[key] = source;
  EXPECT_EQ(make_config(values).train.epochs, 3);
}

TEST(CommandLine, BooleansWithAndWithoutAValue) {
  const auto sharded = [](std::vector<const char*> more) {
    more.insert(more.begin(), {"train", "--config", "a.ini"});
    return parse(more).overrides.at("optimizer.sharded").value;
  };
  EXPECT_EQ(sharded({"--optimizer.sharded"}), "true");
  EXPECT_EQ(sharded({"--optimizer.sharded", "--train.overlap", "off"}), "true");
  EXPECT_EQ(sharded({"--optimizer.sharded", "false"}), "false");
  EXPECT_EQ(sharded({"--optimizer.sharded=no"}), "no");
  EXPECT_EQ(sharded({"--optimizer.sharded", "0", "--resume"}), "0");
  EXPECT_EQ(refusal({"train", "--config", "a.ini", "--optimizer.sharded", "perhaps"}),
            "--optimizer.sharded: \"perhaps\" is neither true nor false");
}

TEST(CommandLine, DeviceIsShortForDeviceKind) {
  EXPECT_EQ(parse({"train", "--config", "a", "--device", "cpu"}).overrides.at("device.kind").value, "cpu");
  EXPECT_THAT(refusal({"train", "--config", "a", "--device", "gpu"}),
              HasSubstr("--device: \"gpu\" is not one of auto, cpu, cuda"));
  EXPECT_THAT(refusal({"train", "--config", "a", "--device", "cpu", "--device.kind", "cpu"}),
              HasSubstr("already given"));
}

TEST(CommandLine, UnknownAndAbbreviatedKeysNameTheNearest) {
  const auto train = [](const char* a, const char* b) {
    return refusal({"train", "--config", "a.ini", a, b});
  };
  EXPECT_THAT(train("--train.epoch", "3"),
              HasSubstr("unknown option \"--train.epoch\": did you mean \"--train.epochs\" (abbreviations"));
  EXPECT_THAT(train("--train.ep", "3"), HasSubstr("did you mean \"--train.epochs\" (abbreviations"));
  EXPECT_THAT(train("--train.ep=3", "--resume"), HasSubstr("\"--train.epochs\""));
  EXPECT_THAT(train("--train.epcohs", "3"), HasSubstr("did you mean \"--train.epochs\"?"));
  EXPECT_THAT(train("--epochs", "3"), HasSubstr("did you mean \"--train.epochs\"?"));
  EXPECT_THAT(train("--overwrit", "3"), HasSubstr("did you mean \"--overwrite\""));
  EXPECT_THAT(refusal({"train", "--conf", "a.ini"}), HasSubstr("did you mean \"--config\""));
  EXPECT_THAT(train("--xyzzy", "3"),
              AllOf(HasSubstr("\"--xyzzy\""), HasSubstr(program_name() + " train --help")));
}

TEST(CommandLine, EveryAbbreviationOfEveryKeyIsRefused) {
  std::vector<std::string> keys;
  for (const ConfigKey& k : config_keys()) keys.push_back(k.name);
  for (const std::string& key : keys) {
    for (std::size_t n = key.find('.') + 2; n < key.size(); ++n) {
      const std::string start = key.substr(0, n);
      if (std::find(keys.begin(), keys.end(), start) != keys.end()) continue;
      const std::string word = "--" + start;
      EXPECT_THAT(refusal({"train", "--config", "a.ini", word.c_str(), "1"}),
                  HasSubstr("unknown option \"" + word + "\""));
    }
  }
}

TEST(CommandLine, BadValuesNameTheFlag) {
  EXPECT_EQ(refusal({"train", "--config", "a.ini", "--train.epochs", "many"}),
            "--train.epochs: \"many\" is not a whole number");
  EXPECT_EQ(refusal({"train", "--config", "a.ini", "--optimizer.lr", "-1"}),
            "--optimizer.lr: -1 is out of range: give at least 0 and at most 1e+06");
  EXPECT_THAT(refusal({"train", "--config", "a.ini", "--run.dir", "a#b"}), HasSubstr("cannot hold '#'"));
  EXPECT_THAT(refusal({"train", "--config", "a.ini", "--run.dir", "a\nb"}), HasSubstr("control characters"));
}

TEST(CommandLine, MissingAndSuperfluousValues) {
  EXPECT_EQ(refusal({"train", "--config", "a.ini", "--train.epochs"}), "--train.epochs needs a value");
  EXPECT_EQ(refusal({"train", "--config", "a.ini", "--train.epochs", "--resume"}),
            "--train.epochs needs a value");
  EXPECT_EQ(refusal({"train", "--config", "a.ini", "--train.epochs="}), "--train.epochs needs a value");
  EXPECT_EQ(refusal({"train", "--config"}), "--config needs a value");
  EXPECT_EQ(refusal({"train", "--config", "a.ini", "--run.dir", "--resume"}), "--run.dir needs a value");
  EXPECT_EQ(refusal({"evaluate", "--run", "--weights", "best"}), "--run needs a value");
  EXPECT_EQ(parse({"train", "--config", "a.ini", "--run.dir=--resume"}).overrides.at("run.dir").value,
            "--resume");
  EXPECT_EQ(refusal({"train", "--config", ""}), "--config needs a value");
  EXPECT_EQ(refusal({"train", "--config", "a.ini", "--resume=yes"}), "--resume takes no value");
}

TEST(CommandLine, TwiceIsRefused) {
  EXPECT_THAT(refusal({"train", "--config", "a.ini", "--train.epochs", "1", "--train.epochs", "2"}),
              HasSubstr("--train.epochs: is already given"));
  EXPECT_THAT(refusal({"train", "--config", "a.ini", "--config", "b.ini"}),
              HasSubstr("--config: is given twice"));
}

TEST(CommandLine, PositionalArgumentsOnlyWhereTheyBelong) {
  EXPECT_THAT(refusal({"train", "--config", "a.ini", "extra"}), HasSubstr("unexpected argument \"extra\""));
  EXPECT_THAT(refusal({"train", "--config", "a.ini", "--model.layers", "flatten", "dense:10"}),
              AllOf(HasSubstr("\"dense:10\""), HasSubstr("needs quotes")));
  EXPECT_THAT(refusal({"train", "--config", "a.ini", "-train.epochs", "1"}), HasSubstr("\"-train.epochs\""));
  EXPECT_THAT(parse({"inspect", "model.safetensors"}).arguments, ElementsAre("model.safetensors"));
  EXPECT_THAT(refusal({"inspect"}), HasSubstr("inspect takes one argument, PATH, but 0 are given"));
  EXPECT_THAT(refusal({"inspect", "a", "b"}), HasSubstr("but 2 are given"));
  EXPECT_THAT(refusal({"doctor", "now"}), HasSubstr("unexpected argument"));
  // What a newcomer may have meant.
  EXPECT_THAT(refusal({"train", "mine.ini"}), HasSubstr("--config FILE"));
  EXPECT_THAT(refusal({"evaluate", "runs/a"}), HasSubstr("--run DIR"));
}

TEST(CommandLine, TrainNeedsAConfigOrARunToResume) {
  EXPECT_THAT(refusal({"train"}), HasSubstr("train needs --config FILE"));
  EXPECT_EQ(parse({"train", "--model.name", "mlp"}).config_file, "");
  EXPECT_THAT(refusal({"train", "--resume"}), HasSubstr("--run.dir"));
  const CommandLine line = parse({"train", "--resume", "--run.dir", "runs/a"});
  EXPECT_EQ(line.config_file, "");
  EXPECT_EQ(line.overrides.at("run.dir").value, "runs/a");
  EXPECT_THAT(refusal({"train", "--config", "a.ini", "--resume", "--overwrite"}), HasSubstr("both given"));
}

TEST(CommandLine, FlagsReachTheConfig) {
  Config config;
  apply_flags(parse({"train", "--config", "a.ini", "--dry-run", "--allow-numeric-change"}), config);
  EXPECT_TRUE(config.run.dry_run && config.run.allow_numeric_change);
  EXPECT_FALSE(config.run.overwrite || config.run.resume);
  apply_flags(parse({"train", "--config", "a.ini", "--resume"}), config);
  EXPECT_TRUE(config.run.resume);
  EXPECT_FALSE(config.run.dry_run);
}

TEST(CommandLine, EvaluatePredictAndExport) {
  const CommandLine evaluate =
      parse({"evaluate", "--run", "runs/a", "--device.threads", "2", "--data.test", "t.gz"});
  EXPECT_EQ(evaluate.options.at("run"), "runs/a");
  EXPECT_EQ(evaluate.options.at("weights"), "last");
  EXPECT_EQ(evaluate.options.at("split"), "test");
  EXPECT_EQ(evaluate.overrides.size(), 2u);
  EXPECT_EQ(refusal({"evaluate"}), "evaluate needs --run DIR");
  EXPECT_THAT(refusal({"evaluate", "--run", "r", "--split", "tset"}),
              HasSubstr("--split: \"tset\" is not one of test, validation, train"));
  EXPECT_THAT(refusal({"evaluate", "--run", "r", "--weights", "newest"}), HasSubstr("last, best"));
  EXPECT_THAT(refusal({"evaluate", "--run", "r", "--train.epochs", "1"}), HasSubstr("a key of train"));
  EXPECT_THAT(refusal({"evaluate", "--run", "r", "--model.layers", "relu"}),
              HasSubstr("evaluate does not take it"));

  // How samples are read and divided belongs to the run: a key that would be ignored is refused.
  for (const char* key : {"--data.normalize", "--data.limit", "--data.label", "--data.shape",
                          "--data.classes", "--data.format", "--data.samples"}) {
    EXPECT_THAT(refusal({"evaluate", "--run", "r", key, "1"}), HasSubstr("evaluate does not take it"));
    EXPECT_THAT(refusal({"predict", "--run", "r", "--input", "x", key, "1"}),
                HasSubstr("predict does not take it"));
  }
  EXPECT_THAT(refusal({"predict", "--run", "r", "--input", "x", "--data.test", "t.gz"}),
              HasSubstr("predict does not take it"));

  const CommandLine predict = parse({"predict", "--run", "r", "--input", "x.csv", "--weights", "best"});
  EXPECT_EQ(predict.options.at("input"), "x.csv");
  EXPECT_EQ(predict.options.at("weights"), "best");
  EXPECT_EQ(predict.options.count("output"), 0u);
  EXPECT_EQ(refusal({"predict", "--run", "r"}), "predict needs --input FILE");

  const CommandLine exported =
      parse({"export", "--run", "r", "--format", "safetensors", "--output", "m.safetensors"});
  EXPECT_EQ(exported.options.at("output"), "m.safetensors");
  EXPECT_THAT(refusal({"export", "--run", "r", "--format", "onnx", "--output", "m"}),
              HasSubstr("safetensors"));
  EXPECT_THAT(refusal({"export", "--run", "r"}), HasSubstr("export needs --output FILE"));
}

TEST(CommandLine, OptionsOfAnotherCommandAreRefused) {
  EXPECT_THAT(refusal({"evaluate", "--run", "r", "--input", "x"}),
              HasSubstr("\"--input\" is an option of predict, not of evaluate"));
  EXPECT_THAT(refusal({"train", "--config", "a", "--state"}), HasSubstr("is an option of digest"));
  EXPECT_THAT(refusal({"digest", "a", "--resume"}), HasSubstr("is an option of train"));
  EXPECT_EQ(parse({"digest", "--state", "a"}).options.at("state"), "1");
  EXPECT_THAT(parse({"digest", "--state", "a"}).arguments, ElementsAre("a"));
}

TEST(CommandLine, CommandsAreNamedInFull) {
  EXPECT_THAT(refusal({}), AllOf(HasSubstr("train"), HasSubstr("doctor")));
  EXPECT_THAT(refusal({"tarin"}), HasSubstr("did you mean \"train\"?"));
  EXPECT_THAT(refusal({"eval"}), HasSubstr("did you mean \"evaluate\""));
  EXPECT_THAT(refusal({"--config", "a.ini", "train"}), HasSubstr("the command comes first"));
}

TEST(CommandLine, HelpAndVersion) {
  EXPECT_EQ(parse({"--help"}).options.at("help"), "1");
  EXPECT_EQ(parse({"--version"}).options.at("version"), "1");
  EXPECT_EQ(parse({"--help"}).command, "");
  for (const std::vector<const char*>& words : std::vector<std::vector<const char*>>{
           {"train", "--help"}, {"train", "-h"}, {"help", "train"}, {"train", "--resume", "-h"}}) {
    const CommandLine line = parse(words);
    EXPECT_EQ(line.command, "train");
    EXPECT_EQ(line.options.at("help"), "1");
  }
  for (const char* word : {"-h", "help"}) {
    EXPECT_EQ(parse({word}).command, "");
    EXPECT_EQ(parse({word}).options.at("help"), "1");
  }
}

TEST(Help, ListsEveryKeyWithItsDefault) {
  const std::string text = help_text("train");
  for (const ConfigKey& key : config_keys()) EXPECT_THAT(text, HasSubstr("--" + key.name + " ")) << key.name;
  EXPECT_THAT(text, AllOf(HasSubstr("[optimizer]"), HasSubstr("--train.global_batch N"), HasSubstr("[32]")));
  EXPECT_THAT(text, HasSubstr("--allow-numeric-change"));
}

TEST(Help, OverviewListsEveryCommand) {
  for (const char* command : {"train", "evaluate", "predict", "export", "inspect", "digest", "doctor"}) {
    EXPECT_THAT(help_text(""), HasSubstr(std::string("\n  ") + command)) << command;
    EXPECT_THAT(help_text(command), HasSubstr(program_name() + " " + command));
  }
  EXPECT_THAT(help_text("evaluate"), AllOf(HasSubstr("--weights last|best"), HasSubstr("--device.threads"),
                                           Not(HasSubstr("--model.layers"))));
}

}  // namespace
}  // namespace lockstep
