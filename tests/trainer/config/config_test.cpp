#include "trainer/config/config.h"

#include <algorithm>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include "core/error.h"
#include "model/graph/graph.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/ops/loss/mean_squared_error.h"
#include "model/zoo/layers_line.h"
#include "model/zoo/zoo.h"
#include "support/temp_dir.h"
#include "trainer/config/test_support.h"

namespace lockstep {
namespace {

using test::config_of;
using test::message_of;
using test::message_of_text;
using test::minimal;
using test::refusal;
using testing::AllOf;
using testing::HasSubstr;

// ---- Reading ----

TEST(ConfigFile, SectionsAndDottedKeysAreTheSame) {
  const ConfigValues sections = parse_config_text("[train]\nepochs = 3\n\n[optimizer]\nlr=0.5\n", "a.ini");
  const ConfigValues dotted = parse_config_text("train.epochs=3\n  optimizer.lr =0.5  \n", "a.ini");
  ASSERT_EQ(sections.size(), 2u);
  EXPECT_EQ(sections.at("train.epochs").value, "3");
  EXPECT_EQ(sections.at("optimizer.lr").value, dotted.at("optimizer.lr").value);
  EXPECT_EQ(sections.at("optimizer.lr").origin, "a.ini:5");
  EXPECT_EQ(dotted.at("optimizer.lr").origin, "a.ini:2");
}

TEST(ConfigFile, TakesCommentsBlanksCarriageReturnsAndAByteOrderMark) {
  const ConfigValues v = parse_config_text(
      "\xEF\xBB\xBF# first\r\n\r\n[model] # a comment\r\nlayers = conv:32x3,pad=1 relu # two\r\n", "a.ini");
  ASSERT_EQ(v.size(), 1u);
  EXPECT_EQ(v.at("model.layers").value, "conv:32x3,pad=1 relu");
  EXPECT_EQ(v.at("model.layers").origin, "a.ini:4");
}

TEST(ConfigFile, UnknownKeyNamesFileLineAndTheNearestKey) {
  EXPECT_EQ(message_of_text("[train]\n\nepoch = 3\n"),
            "configs/a.ini:3: unknown key \"train.epoch\": did you mean \"train.epochs\" (abbreviations are "
            "not accepted)?");
  EXPECT_EQ(message_of_text("train.epocsh = 3\n"),
            "configs/a.ini:1: unknown key \"train.epocsh\": did you mean \"train.epochs\"?");
  EXPECT_THAT(message_of_text("epochs = 3\n"), HasSubstr("did you mean \"train.epochs\"?"));
  EXPECT_THAT(message_of_text("[model]\nhiden = 5\n"), HasSubstr("\"model.hidden\"?"));
  EXPECT_THAT(message_of_text("log.colour = 5\n"), HasSubstr("there are log.every_steps, log.timeline"));
  EXPECT_EQ(message_of_text("xyzzy = 5\n"), "configs/a.ini:1: unknown key \"xyzzy\"");
}

TEST(ConfigFile, EveryAbbreviationOfEveryKeyIsRefused) {
  std::vector<std::string> keys;
  for (const ConfigKey& k : config_keys()) keys.push_back(k.name);
  for (const std::string& key : keys) {
    for (std::size_t n = key.find('.') + 2; n < key.size(); ++n) {
      const std::string start = key.substr(0, n);
      if (std::find(keys.begin(), keys.end(), start) != keys.end()) continue;  // model.name and the like
      EXPECT_THAT(message_of_text(start + " = 1\n"), HasSubstr("unknown key \"" + start + "\"")) << key;
    }
  }
}

TEST(ConfigFile, UnknownSectionIsRefusedEvenWhenItIsEmpty) {
  EXPECT_THAT(message_of_text("[trian]\n"),
              AllOf(HasSubstr("configs/a.ini:1:"), HasSubstr("did you mean \"train\"")));
  EXPECT_THAT(message_of_text("[]\n"), HasSubstr("unknown section"));
  EXPECT_THAT(message_of_text("[train\nepochs = 1\n"), HasSubstr("lacks its ']'"));
}

TEST(ConfigFile, FlagsAreNoKeys) {
  EXPECT_THAT(message_of_text("resume = true\n"), HasSubstr("give --resume"));
  EXPECT_THAT(message_of_text("dry-run = true\n"), HasSubstr("give --dry-run"));
}

TEST(ConfigFile, EveryFlagOfTrainIsTold) {
  for (const std::string flag : {"config", "overwrite", "resume", "dry-run", "allow-numeric-change",
                                 "allow-slices-change", "allow-data-change", "take-over", "device"})
    EXPECT_THAT(message_of_text(flag + " = 1"), HasSubstr("give --" + flag + " there"));
}

TEST(ConfigFile, LinesThatAreNeitherAreRefused) {
  EXPECT_THAT(message_of_text("\n\ntrain.epochs 3\n"),
              AllOf(HasSubstr("configs/a.ini:3:"), HasSubstr("key = value")));
  EXPECT_THAT(message_of_text(" = 3\n"), HasSubstr("a key is missing"));
}

TEST(ConfigFile, WhatWouldCutAValueShortIsRefused) {
  EXPECT_THAT(
      message_of_text("[run]\ndir = runs/a#2\n"),
      AllOf(HasSubstr("configs/a.ini:2"), HasSubstr("\"dir = runs/a\""), HasSubstr("blank before it")));
  EXPECT_THAT(message_of_text("train.epochs = 3# three"), HasSubstr("configs/a.ini:1"));
  EXPECT_EQ(parse_config_text("## a\n  # b\ntrain.epochs = 3 # a#b ##\n", "a.ini").at("train.epochs").value,
            "3");
}

TEST(ConfigFile, TextThatIsNotUtf8IsRefused) {
  // Checkpoints could not hold it.
  EXPECT_THAT(message_of_text("\nrun.dir = l\xe4ufe"),
              AllOf(HasSubstr("configs/a.ini:2: run.dir"), HasSubstr("UTF-8")));
  EXPECT_THAT(message_of_text("data.train = a\xff.csv"), HasSubstr("UTF-8"));
  EXPECT_EQ(parse_config_text("run.dir = l\xc3\xa4ufe # caf\xe9", "a.ini").at("run.dir").value,
            "l\xc3\xa4ufe");
}

TEST(ConfigFile, DuplicatesNameBothLines) {
  EXPECT_THAT(
      message_of_text("train.epochs = 3\n[train]\nepochs = 3\n"),
      AllOf(HasSubstr("configs/a.ini:3: train.epochs is given a second time"), HasSubstr("configs/a.ini:1")));
}

TEST(ConfigFile, ValuesOfTheWrongTypeOrRange) {
  const auto start = std::string("configs/a.ini:1: ");
  EXPECT_EQ(message_of_text("train.epochs = three"), start + "train.epochs: \"three\" is not a whole number");
  EXPECT_EQ(message_of_text("train.steps = 1e3"),
            start + "train.steps: write the whole number 1000 without point or exponent");
  for (const char* bad : {"", "3x", "0x10", "1.5", "nan", "3 4", "--3", "99999999999999999999999"}) {
    EXPECT_THAT(message_of_text(std::string("train.epochs = ") + bad), HasSubstr(start + "train.epochs"))
        << bad;
  }
  for (const char* bad : {"", "nan", "inf", "-inf", "0x1p3", "1e-3x", "1,5", "fast", "1e999x"}) {
    EXPECT_THAT(message_of_text(std::string("optimizer.lr = ") + bad),
                HasSubstr("is not a finite decimal number"))
        << bad;
  }
  // A range error is no syntax error.
  for (const char* large : {"1e999", "-1e999"})
    EXPECT_THAT(message_of_text(std::string("optimizer.lr = ") + large),
                HasSubstr(std::string(large) + " is out of range: give at least 0"));
  for (const char* small : {"1e-400", "-1e-400"})
    EXPECT_THAT(message_of_text(std::string("optimizer.weight_decay = ") + small),
                HasSubstr(std::string(small) + " is too small"));
  EXPECT_THAT(message_of_text("train.epochs = 1e400"), HasSubstr("1e400 is out of range"));
  EXPECT_EQ(message_of_text("train.global_batch = 0"),
            start + "train.global_batch: 0 is out of range: give at least 1 and at most 1e+09");
  EXPECT_EQ(message_of_text("optimizer.momentum = 1"),
            start + "optimizer.momentum: 1 is out of range: give at least 0 and below 1");
  EXPECT_THAT(message_of_text("train.epochs = -1"), HasSubstr("out of range"));
  EXPECT_THAT(message_of_text("run.seed = -1"), HasSubstr("run.seed"));
  EXPECT_EQ(message_of_text("run.seed = 18446744073709551616"),
            "configs/a.ini:1: run.seed: 18446744073709551616 is out of range: give at least 0 and at most "
            "18446744073709551615");
  EXPECT_THAT(message_of_text("device.threads = 99999999999"), HasSubstr("out of range"));
  EXPECT_THAT(message_of_text("optimizer.lr = -0.1"), HasSubstr("at least 0"));
  EXPECT_THAT(message_of_text("train.bucket_mb = 0"), HasSubstr("above 0"));
  EXPECT_THAT(message_of_text("device.threads = 99999"), HasSubstr("at most 4096"));
  EXPECT_THAT(message_of_text("optimizer.sharded = maybe"), HasSubstr("\"maybe\" is neither true nor false"));
  EXPECT_EQ(message_of_text("loss.name = crossentropy"),
            start +
                "loss.name: \"crossentropy\" is not one of bce, cross_entropy, hinge, huber, l1, mse: did "
                "you mean \"cross_entropy\"?");
  EXPECT_THAT(message_of_text("model.name = resnet"), HasSubstr("did you mean \"resnet18\"?"));
  EXPECT_THAT(message_of_text("optimizer.name = adamax"), HasSubstr("sgd, adam, adamw, rmsprop"));
  EXPECT_THAT(message_of_text("data.shape = 1x28xx28"), HasSubstr("is not a shape such as 1x28x28"));
}

TEST(ConfigFile, BooleansHaveEightSpellings) {
  for (const char* yes : {"true", "1", "on", "yes"}) {
    EXPECT_TRUE(config_of(minimal + "log.timeline = " + yes).log.timeline) << yes;
  }
  for (const char* no : {"false", "0", "off", "no"}) {
    EXPECT_FALSE(config_of(minimal + "train.overlap = " + no).train.overlap) << no;
  }
}

TEST(ConfigFile, MissingUnreadableEmptyOrOfTheWrongKind) {
  const test::TempDir dir;
  const auto refused = [](const std::string& path) { return message_of([&] { read_config_file(path); }); };
  EXPECT_THAT(refused(dir / "none.ini"), HasSubstr(dir / "none.ini"));
  EXPECT_THAT(refused(dir.path()), HasSubstr("director"));
  test::write_file_bytes(dir / "empty.ini", "");
  EXPECT_THAT(refused(dir / "empty.ini"), HasSubstr("empty"));
  test::write_file_bytes(dir / "comments.ini", "# nothing\n\n[train]\n");
  EXPECT_THAT(refused(dir / "comments.ini"), HasSubstr("holds no keys"));
  test::write_file_bytes(dir / "model.ini", std::string("\x10\0\0\0\0\0\0\0{\"w\"", 12));
  EXPECT_THAT(refused(dir / "model.ini"),
              AllOf(HasSubstr("is not a config file"), HasSubstr("byte 0 is 0x10")));
  test::write_file_bytes(dir / "json.ini", "{\"train\": {\"epochs\": 3}}\n");
  EXPECT_THAT(refused(dir / "json.ini"), HasSubstr("json.ini:1:"));
  if (geteuid() != 0) {
    test::write_file_bytes(dir / "secret.ini", minimal);
    chmod((dir / "secret.ini").c_str(), 0);
    EXPECT_THAT(refused(dir / "secret.ini"), HasSubstr("ermission"));
  }
}

// ---- Combinations ----

TEST(ConfigChecks, MinimalConfigTakesDefaults) {
  const Config c = config_of(minimal);
  EXPECT_EQ(c.train.global_batch, 32);
  EXPECT_EQ(c.train.reduction, "ordered");
  EXPECT_TRUE(c.optimizer.sharded);
  EXPECT_EQ(c.loss.name, "cross_entropy");
}

TEST(ConfigChecks, AModelIsAZooNameOrALineOfLayers) {
  EXPECT_THAT(refusal("model.name = mlp"),
              AllOf(HasSubstr("model.name = mlp (a.ini:4)"), HasSubstr("model.layers")));
  EXPECT_THAT(message_of([] { config_of("data.train = a\ntrain.epochs = 1\n"); }),
              HasSubstr("there is no model"));
  EXPECT_THAT(refusal("model.hidden = 64"), HasSubstr("model.hidden = 64 (a.ini:4) would have no effect"));
  const Config c = config_of("model.name = mlp\nmodel.hidden = 64,32\ndata.train = a\ntrain.epochs = 1\n");
  EXPECT_EQ(c.model.options.at("hidden"), "64,32");
}

TEST(ConfigChecks, SlicesDivideTheGlobalBatch) {
  const std::string text = refusal("train.slices = 5\ntrain.global_batch = 32\n");
  EXPECT_THAT(text,
              AllOf(HasSubstr("train.slices = 5 (a.ini:4)"), HasSubstr("train.global_batch = 32 (a.ini:5)")));
  EXPECT_EQ(config_of(minimal + "train.slices = 8").train.slices, 8);
}

TEST(ConfigChecks, TrainingMustEnd) {
  EXPECT_THAT(message_of([] { config_of("model.name = mlp\ndata.train = a\n"); }),
              HasSubstr("train.epochs and train.steps are both 0"));
  EXPECT_EQ(config_of("model.name = mlp\ndata.train = a\ntrain.steps = 9\n").train.steps, 9);
}

TEST(ConfigChecks, LossFitsTheLabels) {
  EXPECT_EQ(config_of(minimal + "loss.name = mse\n").loss.name, "mse");  // IDX files may hold numbers
  EXPECT_THAT(refusal("data.format = csv\ndata.label = a,b\n"), HasSubstr("names several columns"));
  EXPECT_THAT(refusal("data.format = csv\nloss.name = mse\ndata.classes = 3\n"), HasSubstr("no classes"));
  EXPECT_EQ(config_of(minimal + "data.format = csv\nloss.name = mse\ndata.label = a,b\n").data.label, "a,b");
}

TEST(ConfigChecks, KeysWithoutEffectAreRefused) {
  EXPECT_THAT(refusal("data.label = y"), HasSubstr("would have no effect"));
  EXPECT_THAT(refusal("data.samples = 100"), HasSubstr("would have no effect"));
  EXPECT_THAT(refusal("data.format = synthetic\ndata.samples = 5\n"),
              HasSubstr("data.train = images.gz (a.ini:2)"));
  EXPECT_THAT(refusal("data.test = t.gz\ndata.test_fraction = 0.1\n"),
              HasSubstr("data.test is given; to use that file, add --data.test_fraction 0"));
  EXPECT_THAT(refusal("data.test_labels = t.gz"), HasSubstr("data.test is not given"));
  EXPECT_THAT(refusal("optimizer.name = adam\noptimizer.momentum = 0.9\n"),
              HasSubstr("adam has optimizer.beta1 instead"));
  EXPECT_THAT(refusal("optimizer.beta2 = 0.99"), HasSubstr("optimizer.name is sgd"));
  EXPECT_THAT(refusal("optimizer.nesterov = true"), HasSubstr("needs optimizer.momentum above 0"));
  EXPECT_THAT(refusal("schedule.min_lr = 0.001"), HasSubstr("schedule.name is constant"));
}

TEST(ConfigChecks, OtherCombinations) {
  EXPECT_THAT(refusal("data.test_fraction = 0.5\ndata.validation_fraction = 0.5\n"),
              HasSubstr("nothing to train on"));
  for (const std::string precision : {"tf32", "bf16", "fp16"})
    EXPECT_THAT(refusal("train.precision = " + precision + "\ndevice.kind = cpu\n"),
                HasSubstr("train.precision = " + precision));
  EXPECT_THAT(refusal("device.kind = cpu\ndevice.deterministic = false\n"), HasSubstr("it is for GPUs"));
  EXPECT_THAT(refusal("device.kind = cpu\ndevice.fuse = false\n"), HasSubstr("it is for GPUs"));
  EXPECT_THAT(refusal("device.kind = cpu\ndevice.autotune = true\n"), HasSubstr("it is for GPUs"));
  EXPECT_THAT(refusal("device.plan_cache = plans.txt\n"), HasSubstr("device.autotune is false"));
  EXPECT_EQ(config_of(minimal + "device.autotune = true\ndevice.plan_cache = p.txt\n").device.plan_cache,
            "p.txt");
  EXPECT_THAT(refusal("schedule.name = step"), HasSubstr("schedule.milestones is missing"));
  EXPECT_THAT(refusal("schedule.milestones = 10,20"), HasSubstr("schedule.name is constant"));
  EXPECT_THAT(refusal("schedule.name = step\nschedule.milestones = 20,10\n"), HasSubstr("rising steps"));
  EXPECT_THAT(refusal("schedule.name = step\nschedule.milestones = 10,ten\n"), HasSubstr("rising steps"));
  EXPECT_THAT(refusal("optimizer.decay_norms = false"), HasSubstr("optimizer.weight_decay is 0"));
  EXPECT_THAT(refusal("schedule.name = cosine\nschedule.min_lr = 1\n"), HasSubstr("is above optimizer.lr"));
  EXPECT_THAT(refusal("schedule.steps = 10\nschedule.warmup_steps = 11\n"),
              HasSubstr("is above schedule.steps"));
  const std::string synthetic = "model.name = mlp\ntrain.steps = 1\ndata.format = synthetic\n";
  EXPECT_THAT(message_of([&] { config_of(synthetic); }), HasSubstr("data.samples is missing"));
  EXPECT_THAT(message_of([&] { config_of(synthetic + "data.samples = 9\n"); }),
              HasSubstr("data.shape is missing"));
  EXPECT_THAT(message_of([&] { config_of(synthetic + "data.samples = 9\ndata.shape = 3\n"); }),
              HasSubstr("data.classes is missing"));
  EXPECT_THAT(message_of([] { config_of("model.name = mlp\ntrain.steps = 1\n"); }),
              HasSubstr("data.train is missing"));
}

}  // namespace
}  // namespace lockstep
