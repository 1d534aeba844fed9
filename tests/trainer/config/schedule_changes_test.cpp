#include "trainer/config/schedule_changes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "trainer/config/refusal.h"

namespace lockstep {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Values = std::map<std::string, std::string>;

/// A cosine over 100 steps from 0.1, with what `set` adds.
Config config_with(const std::string& more = "") {
  const std::string text =
      "model.layers = dense:3\ndata.format = synthetic\ndata.samples = 100\ndata.shape = 4\ndata.classes = "
      "3\n"
      "train.steps = 100\noptimizer.lr = 0.1\n" +
      more;
  return make_config(parse_config_text(text, "a.ini"));
}

Config cosine(const std::string& more = "") {
  return config_with("schedule.name = cosine\nschedule.steps = 100\n" + more);
}

ConfigValues values_of(const Config& config) {
  return parse_config_text(resolved_ini(config), "run/config.resolved.ini");
}

TEST(ScheduleChanges, TextIsReadAndWritten) {
  const std::string text = "0: optimizer.lr=0.01; 40: schedule.milestones=50,60 schedule.name=step";
  const auto changes = parse_changes(text);
  ASSERT_TRUE(changes);
  EXPECT_THAT(*changes,
              ElementsAre(ScheduleChange{0, {{"optimizer.lr", "0.01"}}},
                          ScheduleChange{40, {{"schedule.name", "step"}, {"schedule.milestones", "50,60"}}}));
  EXPECT_EQ(changes_text(*changes), text);
  EXPECT_THAT(*parse_changes(" "), IsEmpty());
  // A blank within a value would end it.
  EXPECT_EQ(changes_text({{7, {{"schedule.milestones", "50, 60"}}}}), "7: schedule.milestones=50,60");
}

TEST(ScheduleChanges, WhatIsNoListIsRefused) {
  for (const char* bad :
       {"40", "40:", ": optimizer.lr=1", "-1: optimizer.lr=1", "40 optimizer.lr=1", "40: optimizer.lr",
        "40: lr=1", "40: train.epochs=3", "40: optimizer.lr=1 optimizer.lr=2", "40: optimizer.lr=1;",
        "40: optimizer.lr=1; 40: optimizer.lr=2", "40: optimizer.lr=1; 30: optimizer.lr=2",
        "99999999999999999999: optimizer.lr=1", "1.5: optimizer.lr=1"}) {
    EXPECT_FALSE(parse_changes(bad)) << bad;
    EXPECT_THAT(refusal_of([&] { config_with(std::string("schedule.changes = ") + bad + "\n"); }),
                HasSubstr("schedule.changes"))
        << bad;
  }
}

TEST(ScheduleChanges, ValuesAreCheckedWithTheStepThatTheyHoldFrom) {
  const auto refusal = [](const std::string& list) {
    return refusal_of([&] { cosine("schedule.changes = " + list + "\n"); });
  };
  EXPECT_THAT(refusal("40: optimizer.lr=-1"), HasSubstr("from step 40 on"));
  EXPECT_THAT(refusal("40: schedule.name=cosinus"), HasSubstr("cosinus"));
  EXPECT_THAT(refusal("40: schedule.gamma=0.5"), HasSubstr("schedule.name is cosine"));
  EXPECT_THAT(refusal("40: schedule.name=step"), HasSubstr("schedule.milestones is missing"));
  EXPECT_THAT(refusal("40: optimizer.lr=0.01; 50: schedule.min_lr=0.05"), HasSubstr("from step 50 on"));
}

TEST(ScheduleChanges, ARateIsThatOfItsStep) {
  const Config plain = cosine();
  const Config changed = cosine("schedule.changes = 40: schedule.steps=200; 60: optimizer.lr=0.01\n");
  const RunSchedule before(plain), after(changed);
  Config::Schedule over_200 = plain.schedule;
  over_200.steps = 200;
  const Schedule longer(over_200, 0.1), lower(over_200, 0.01);
  for (std::int64_t s = 0; s < 40; ++s) EXPECT_EQ(after.lr_at(s), before.lr_at(s)) << s;
  for (std::int64_t s = 40; s < 60; ++s) EXPECT_EQ(after.lr_at(s), longer.lr_at(s)) << s;
  for (std::int64_t s = 60; s < 300; ++s) EXPECT_EQ(after.lr_at(s), lower.lr_at(s)) << s;
  EXPECT_TRUE(after.changes_at(40));
  EXPECT_FALSE(after.changes_at(0));
  EXPECT_TRUE(before.equals(after, 0, 40));
  EXPECT_FALSE(before.equals(after, 0, 41));
  EXPECT_EQ(config_at(changed, 39).schedule.steps, 100);
  EXPECT_EQ(config_at(changed, 1000).optimizer.lr, 0.01);
}

TEST(ScheduleChanges, AnotherChangeIsMeantOnTopOfAllBefore) {
  const std::vector<ScheduleChange> held = {{40, {{"optimizer.lr", "0.01"}}},
                                            {60, {{"schedule.steps", "200"}}}};
  EXPECT_EQ(changes_text(with_change(held, 80, {{"optimizer.lr", "0.001"}})),
            "40: optimizer.lr=0.01; 60: schedule.steps=200; 80: optimizer.lr=0.001");
  EXPECT_EQ(changes_text(with_change(held, 60, {{"optimizer.lr", "0.001"}})),
            "40: optimizer.lr=0.01; 60: optimizer.lr=0.001 schedule.steps=200");
  // From an older checkpoint: what lay ahead holds from there on.
  EXPECT_EQ(changes_text(with_change(held, 20, {{"optimizer.lr", "0.001"}})),
            "20: optimizer.lr=0.001 schedule.steps=200");
}

TEST(ScheduleChanges, OnlyFlagsChangeARun) {
  const ConfigValues stored = values_of(cosine("schedule.changes = 40: optimizer.lr=0.02\n"));
  const auto wanted = [&](const std::string& key, const std::string& value, const std::string& origin) {
    return wanted_rate_change(stored, {{key, {value, origin}}});
  };
  EXPECT_EQ(wanted("optimizer.lr", "0.05", "--optimizer.lr"), (Values{{"optimizer.lr", "0.05"}}));
  // What holds already is no change: the flags of a job that is started again.
  EXPECT_THAT(wanted("optimizer.lr", "2e-2", "--optimizer.lr"), IsEmpty());
  EXPECT_EQ(wanted("optimizer.lr", "0.1", "--optimizer.lr"), (Values{{"optimizer.lr", "0.1"}}));
  // A file says what the run began with, or what holds now.
  EXPECT_THAT(wanted("optimizer.lr", "0.1", "a.ini:3"), IsEmpty());
  EXPECT_THAT(wanted("optimizer.lr", "0.02", "a.ini:3"), IsEmpty());
  EXPECT_THAT(wanted("schedule.steps", "0", "a.ini:3"), IsEmpty());
  EXPECT_THAT(refusal_of([&] { wanted("optimizer.lr", "0.5", "a.ini:3"); }),
              testing::AllOf(HasSubstr("a.ini:3"), HasSubstr("--optimizer.lr 0.5")));
  EXPECT_THAT(wanted("schedule.changes", "40: optimizer.lr=0.02", "a.ini:4"), IsEmpty());
  EXPECT_THAT(wanted("schedule.changes", "", "a.ini:4"), IsEmpty());
  EXPECT_THAT(refusal_of([&] { wanted("schedule.changes", "50: optimizer.lr=1", "--schedule.changes"); }),
              HasSubstr("by flags"));
  EXPECT_THAT(refusal_of([&] { wanted("schedule.gamma", "0.5", "--schedule.gamma"); }),
              HasSubstr("would have no effect"));
}

TEST(ScheduleChanges, AnotherScheduleSetsBackTheOptionsOfTheOld) {
  const ConfigValues stored = values_of(cosine("schedule.min_lr = 0.001\n"));
  const ConfigValues wanted = {{"schedule.name", {"constant", "--schedule.name"}}};
  const Values change = wanted_rate_change(stored, wanted);
  EXPECT_EQ(change, (Values{{"schedule.name", "constant"}, {"schedule.min_lr", "0"}}));
  refuse_idle_change(cosine("schedule.min_lr = 0.001\n"), 50, 200, change);
}

TEST(ScheduleChanges, AWarmUpMayBeLongerThanTheHorizonOfAScheduleThatHasNone) {
  const Config began = config_with("schedule.steps = 4\n");
  const ConfigValues warmup = {{"schedule.warmup_steps", {"20", "--schedule.warmup_steps"}}};
  const Values change = wanted_rate_change(values_of(began), warmup);
  EXPECT_EQ(change, (Values{{"schedule.warmup_steps", "20"}}));
  refuse_idle_change(began, 4, 60, change);
  // The run can be read with it, and changed again.
  const Config changed = config_with("schedule.steps = 4\nschedule.changes = 4: schedule.warmup_steps=20\n");
  EXPECT_EQ(RunSchedule(changed).lr_at(9), 0.1 * 0.5);
  EXPECT_EQ(wanted_rate_change(values_of(changed), {{"optimizer.lr", {"0.2", "--optimizer.lr"}}}),
            (Values{{"optimizer.lr", "0.2"}}));
  // The horizon of a cosine that the run has left does not bind it either.
  const Config left = cosine("schedule.changes = 10: schedule.name=constant\n");
  EXPECT_EQ(
      wanted_rate_change(values_of(left), {{"schedule.warmup_steps", {"200", "--schedule.warmup_steps"}}}),
      (Values{{"schedule.warmup_steps", "200"}}));
  // That of a cosine does.
  EXPECT_THAT(refusal_of([] {
                wanted_rate_change(values_of(cosine()),
                                   {{"schedule.warmup_steps", {"200", "--schedule.warmup_steps"}}});
              }),
              HasSubstr("is above schedule.steps = 100"));
  EXPECT_THAT(refusal_of([] { cosine("schedule.changes = 10: schedule.warmup_steps=200\n"); }),
              HasSubstr("from step 10 on"));
}

TEST(ScheduleChanges, AChangeWithoutEffectIsRefused) {
  const Config run = cosine("schedule.warmup_steps = 10\n");
  const auto refusal = [&](std::int64_t from, std::int64_t end, const Values& values) {
    return refusal_of([&] { refuse_idle_change(run, from, end, values); });
  };
  EXPECT_THAT(refusal(100, 100, {{"optimizer.lr", "1"}}), HasSubstr("has taken 100 steps"));
  // The warm-up decides where the cosine begins, until that is over.
  EXPECT_THAT(refusal(50, 100, {{"schedule.warmup_steps", "20"}}), "nothing was refused");
  EXPECT_THAT(refusal(100, 200, {{"schedule.warmup_steps", "20"}}), HasSubstr("--schedule.warmup_steps 20"));
  EXPECT_THAT(refusal(50, 100, {{"optimizer.lr", "1"}}), "nothing was refused");
  EXPECT_THAT(refusal(50, 200, {{"schedule.name", "constant"}, {"schedule.steps", "300"}}),
              HasSubstr("--schedule.steps 300"));
}

TEST(ScheduleRemarks, AnOrdinaryRunHasNone) {
  EXPECT_THAT(schedule_remarks(cosine("schedule.warmup_steps = 10\n"), 0, 100), IsEmpty());
  EXPECT_THAT(schedule_remarks(config_with("schedule.warmup_steps = 100\n"), 0, 100), IsEmpty());
  EXPECT_THAT(schedule_remarks(config_with("schedule.name = step\nschedule.milestones = 30,99\n"), 0, 100),
              IsEmpty());
  EXPECT_THAT(schedule_remarks(cosine(), 100, 100), IsEmpty()) << "nothing is trained";
}

TEST(ScheduleRemarks, AWarmUpThatIsLongerThanTheRunIsToldOfForEverySchedule) {
  for (const char* schedule : {"constant", "cosine", "step\nschedule.milestones = 2000"}) {
    const Config config = config_with(
        "schedule.warmup_steps = 1000\nschedule.steps = 1000\nschedule.name = " + std::string(schedule) +
        "\n");
    const auto remarks = schedule_remarks(config, 0, 60);
    ASSERT_GE(remarks.size(), 1u) << schedule;
    EXPECT_THAT(remarks[0], testing::AllOf(HasSubstr("schedule.warmup_steps"), HasSubstr("comes to 0.006")));
  }
}

TEST(ScheduleRemarks, StepsAtARateOfZeroAreToldOfOrRefused) {
  EXPECT_THAT(refusal_of([] { schedule_remarks(cosine(), 100, 200); }),
              testing::AllOf(HasSubstr("ended at step 100"), HasSubstr("--schedule.steps 200")));
  EXPECT_THAT(schedule_remarks(cosine(), 0, 150), ElementsAre(HasSubstr("50 of the steps 1 to 150")));
  EXPECT_THAT(schedule_remarks(cosine("schedule.min_lr = 0.01\n"), 100, 200),
              ElementsAre(HasSubstr("schedule.min_lr = 0.01")));
  EXPECT_THAT(schedule_remarks(cosine("schedule.changes = 100: schedule.steps=200\n"), 100, 200), IsEmpty());
}

TEST(ScheduleRemarks, WhatHasNoEffectIsNamed) {
  EXPECT_THAT(
      schedule_remarks(config_with("schedule.name = step\nschedule.milestones = 30,100,200\n"), 0, 100),
      ElementsAre(HasSubstr("before 100, 200")));
  EXPECT_THAT(
      schedule_remarks(config_with("schedule.name = step\nschedule.milestones = 30\nschedule.gamma = 1\n"), 0,
                       100),
      ElementsAre(HasSubstr("schedule.gamma is 1")));
  EXPECT_THAT(schedule_remarks(cosine("schedule.min_lr = 0.1\n"), 0, 100),
              ElementsAre(HasSubstr("stays at one value")));
  EXPECT_THAT(schedule_remarks(cosine("schedule.changes = 100: optimizer.lr=0.5\n"), 0, 100),
              ElementsAre(HasSubstr("the change of step 100")));
  EXPECT_THAT(schedule_remarks(config_with("schedule.changes = 40: optimizer.lr=0.1\n"), 0, 100),
              ElementsAre(HasSubstr("the change of step 40 alters the learning rate of no step")));
  EXPECT_THAT(schedule_remarks(config_with("schedule.changes = 40: optimizer.lr=0.2\n"), 0, 100), IsEmpty());
  EXPECT_THAT(schedule_remarks(config_with("schedule.changes = 40: optimizer.lr=0.1\n"), 50, 100), IsEmpty())
      << "it lies behind";
}

}  // namespace
}  // namespace lockstep
