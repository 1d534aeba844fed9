#include <algorithm>
#include <cmath>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "comm/threads/thread_communicator.h"
#include "core/error.h"
#include "core/text.h"
#include "trainer/evaluate/classification_report.h"
#include "trainer/run/progress.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

// ---- Classification report ----

/// Three classes: 5 of 6, 3 of 4, 1 of 5 right.
ConfusionMatrix example() {
  return {3, {{0, 0, 5}, {0, 1, 1}, {1, 0, 1}, {1, 1, 3}, {2, 0, 2}, {2, 1, 2}, {2, 2, 1}}};
}

TEST(ClassificationReport, ScoresByHand) {
  const ClassificationReport r(example());
  EXPECT_EQ(r.samples, 15);
  EXPECT_EQ(r.correct, 9);
  EXPECT_DOUBLE_EQ(r.accuracy, 9.0 / 15);
  EXPECT_DOUBLE_EQ(r.scores[0].precision, 5.0 / 8);
  EXPECT_DOUBLE_EQ(r.scores[0].recall, 5.0 / 6);
  EXPECT_DOUBLE_EQ(r.scores[0].f1, 2 * (5.0 / 8) * (5.0 / 6) / (5.0 / 8 + 5.0 / 6));
  EXPECT_DOUBLE_EQ(r.scores[1].precision, 3.0 / 6);
  EXPECT_DOUBLE_EQ(r.scores[1].recall, 3.0 / 4);
  EXPECT_DOUBLE_EQ(r.scores[2].precision, 1.0);
  EXPECT_DOUBLE_EQ(r.scores[2].recall, 1.0 / 5);
  EXPECT_EQ(r.scores[2].support, 5);
  EXPECT_DOUBLE_EQ(r.macro.recall, (5.0 / 6 + 3.0 / 4 + 1.0 / 5) / 3);
  EXPECT_DOUBLE_EQ(r.macro.precision, (5.0 / 8 + 3.0 / 6 + 1.0) / 3);
  EXPECT_DOUBLE_EQ(r.macro.f1, (r.scores[0].f1 + r.scores[1].f1 + r.scores[2].f1) / 3);
}

TEST(ClassificationReport, DivisionByZeroIsZeroAndSaid) {
  ConfusionMatrix m(3);
  m.add(0, 0, 2);
  m.add(1, 0, 2);  // class 1 is never predicted, class 2 has no samples
  const ClassificationReport r(m);
  EXPECT_EQ(r.scores[1].precision, 0);
  EXPECT_EQ(r.scores[1].f1, 0);
  EXPECT_EQ(r.scores.size(), 2u) << "class 2 does not occur";
  EXPECT_EQ(r.classes, 3);
  EXPECT_DOUBLE_EQ(r.macro.precision, 0.5 / 3);
  const std::string text = report_text(m);
  EXPECT_THAT(text, HasSubstr("class 1: never predicted"));
  EXPECT_THAT(text, AllOf(HasSubstr("class 2: no samples"), Not(HasSubstr("class 0: "))));
}

TEST(ClassificationReport, EmptyAndSingleClass) {
  const ClassificationReport none(ConfusionMatrix(2));
  EXPECT_EQ(none.accuracy, 0);
  EXPECT_EQ(none.macro.f1, 0);
  ConfusionMatrix one(1);
  one.add(0, 0, 7);
  EXPECT_EQ(ClassificationReport(one).macro.f1, 1);
  EXPECT_THAT(confusion_text(one), HasSubstr("7"));
}

TEST(ClassificationReport, CountsBeyond32Bits) {
  ConfusionMatrix m(2);
  m.add(0, 0, 6'000'000'000);
  m.add(1, 0, 2'000'000'000);
  EXPECT_DOUBLE_EQ(ClassificationReport(m).accuracy, 0.75);
  EXPECT_THAT(report_text(m), HasSubstr("6000000000 of 8000000000"));
}

TEST(ClassificationReport, TextHoldsEveryClassAndTheAverages) {
  EXPECT_EQ(report_text(example(), {"cat", "dog", "émeu"}),
            "          class  precision     recall         F1    samples\n"
            "            cat     0.6250     0.8333     0.7143          6\n"
            "            dog     0.5000     0.7500     0.6000          4\n"
            "           émeu     1.0000     0.2000     0.3333          5\n"
            "  macro average     0.7083     0.5944     0.5492         15\n"
            "  accuracy 0.6000 (9 of 15)\n");
}

TEST(ClassificationReport, ConfusionTable) {
  EXPECT_EQ(confusion_text(example()),
            "  label | 0 1 2   <- predicted\n"
            "  ------+------\n"
            "      0 | 5 1 0\n"
            "      1 | 1 3 0\n"
            "      2 | 2 2 1\n");
  ConfusionMatrix wide(10);
  for (std::int64_t c = 0; c < 10; ++c) wide.add(c, c, 1000);
  std::istringstream rows(confusion_text(wide));
  std::string row;
  std::getline(rows, row);
  while (std::getline(rows, row)) EXPECT_EQ(row.size(), 9 + 10 * 5u) << "columns are aligned";
  EXPECT_THAT(confusion_text(ConfusionMatrix(21)), AllOf(HasSubstr("21 classes"), HasSubstr("JSON")));
}

TEST(ClassificationReport, Json) {
  const nlohmann::json j = nlohmann::json::parse(report_json(example(), {"a", "b", "c"}));
  EXPECT_EQ(j["samples"], 15);
  EXPECT_EQ(j["classes"][2]["name"], "c");
  EXPECT_EQ(j["classes"][2]["recall"].get<double>(), 0.2);
  EXPECT_EQ(j["confusion"][2], (std::vector<int>{2, 2, 1}));
  EXPECT_EQ(j["macro"]["support"], 15);
  EXPECT_EQ(nlohmann::json::parse(report_json(ConfusionMatrix(30)))["confusion"].size(), 30u);
}

TEST(ClassificationReport, NamesOfAnyScriptAlignAndAreFitForATerminal) {
  const std::string text = report_text(example(), {"猫", "e\xcc\x81mu", "\x1b[31m\n"});
  EXPECT_EQ(text,
            "          class  precision     recall         F1    samples\n"
            "             猫     0.6250     0.8333     0.7143          6\n"
            "            e\xcc\x81mu     0.5000     0.7500     0.6000          4\n"
            "     \\x1b[31m\\n     1.0000     0.2000     0.3333          5\n"
            "  macro average     0.7083     0.5944     0.5492         15\n"
            "  accuracy 0.6000 (9 of 15)\n");
  EXPECT_EQ(confusion_text(example(), {"猫", "d", "e"}),
            "  label | 猫  d  e   <- predicted\n"
            "  ------+---------\n"
            "     猫 |  5  1  0\n"
            "      d |  1  3  0\n"
            "      e |  2  2  1\n");
  EXPECT_LT(report_text(example(), {std::string(100'000, 'x'), "b", "c"}).size(), 1000u);
}

TEST(ClassificationReport, OfManyClassesTheWorstAreToldAndTheRestIsCounted) {
  ConfusionMatrix m(6000);
  for (std::int64_t c = 0; c < 5000; ++c) m.add(c, c % 1000 == 7 ? 3 : c);
  m.add(4, 5999);
  const std::string text = report_text(m, {}, "test.json");
  EXPECT_LT(std::count(text.begin(), text.end(), '\n'), 30);
  EXPECT_THAT(text, AllOf(HasSubstr("the 20 worst of 6000 classes by F1; test.json has all"),
                          HasSubstr("5 classes with samples are never predicted"),
                          HasSubstr("1000 classes have no samples"), HasSubstr("(4995 of 5001)")));
  for (const char* worst : {"           7 ", "        1007 ", "        4007 ", "        5999 "})
    EXPECT_THAT(text, HasSubstr(worst));
  const nlohmann::json j = nlohmann::json::parse(report_json(m));
  EXPECT_EQ(j["classes"].size(), 5001u);
  EXPECT_EQ(j["number_of_classes"], 6000);
  EXPECT_FALSE(j.contains("confusion"));
  EXPECT_EQ(j["confusion_cells"].size(), 5001u);
  EXPECT_EQ(j["confusion_cells"][7], (std::vector<int>{6, 6, 1}));
}

TEST(ClassificationReport, AMillionClassesTakeNoMemoryOfTheirOwn) {
  ConfusionMatrix m(100'000'000);
  m.add(99'999'999, 0, 2);
  m.add(0, 0);
  EXPECT_EQ(m.count(99'999'999, 0), 2);
  EXPECT_EQ(m.cells(), (std::vector<ConfusionCell>{{0, 0, 1}, {99'999'999, 0, 2}}));
  EXPECT_DOUBLE_EQ(ClassificationReport(m).accuracy, 1.0 / 3);
  EXPECT_LT(report_text(m).size(), 2000u);
}

TEST(ClassificationReport, CountsOfRanksAddUpHoweverTheyAreSpread) {
  for (const int ranks : {1, 2, 3, 4}) {
    run_ranks(ranks, {}, [&](Communicator& comm) {
      ConfusionMatrix mine(9000);
      // More pairs than are exchanged at once on the first rank, none on the last of several.
      for (std::int64_t i = 0; i < 9000; ++i)
        if (comm.rank() == (i < 6000 ? 0 : i % std::max(ranks - 1, 1))) mine.add(i, i / 2, i + 1);
      const ConfusionMatrix all = sum_over_ranks(comm, mine);
      EXPECT_EQ(all.cells().size(), 9000u);
      for (std::int64_t i = 0; i < 9000; i += 7) EXPECT_EQ(all.count(i, i / 2), i + 1);
    });
  }
}

TEST(ClassificationReport, RefusesWhatIsNoClass) {
  ConfusionMatrix m(2);
  EXPECT_THROW(m.add(2, 0), InternalError);
  EXPECT_THROW(m.add(0, -1), InternalError);
  EXPECT_THROW(ConfusionMatrix(0), InternalError);
  EXPECT_THROW(ConfusionMatrix(2, {{0, 2, 3}}), InternalError);
  EXPECT_THROW(report_text(m, {"only one"}), InternalError);
}

// ---- Progress ----

struct Screen {
  double now = 1000;
  int columns = 100;
  std::ostringstream out;
  Progress::Options options(bool terminal, bool colour = false) {
    Progress::Options o;
    o.terminal = terminal;
    o.colour = colour;
    o.clock = [this] { return now; };
    o.columns = [this] { return columns; };
    return o;
  }
  /// What was written since the last call.
  std::string take() {
    std::string text = out.str();
    out.str("");
    return text;
  }
};

/// Two epochs of 100 steps of 50 samples, 10 steps a second.
ProgressState at(std::int64_t step) {
  ProgressState s;
  s.epoch = (step - 1) / 100 + 1;
  s.epochs = 2;
  s.step = step;
  s.steps = 200;
  s.epoch_step = (step - 1) % 100 + 1;
  s.epoch_steps = 100;
  s.samples = step * 50;
  s.loss = 0.25;
  return s;
}

TEST(Progress, BarIsDrawnInPlace) {
  Screen screen;
  Progress progress(screen.out, screen.options(true));
  for (std::int64_t step = 1; step <= 50; ++step) {
    progress.update(at(step));
    screen.now += 0.1;
  }
  const std::string text = screen.take();
  EXPECT_THAT(text, Not(HasSubstr("\n")));
  const std::string last = text.substr(text.rfind('\r'));
  EXPECT_EQ(last,
            "\repoch 1/2 [===============>              ]  50%  loss 0.2500  500 samples/s  15s left\x1b[K");
  EXPECT_DOUBLE_EQ(std::round(progress.samples_per_second()), 500);
  progress.clear();
  EXPECT_EQ(screen.take(), "\r\x1b[K");
  progress.clear();
  EXPECT_EQ(screen.take(), "") << "there is nothing more to clear";
}

TEST(Progress, IsDrawnAtMostTenTimesASecond) {
  Screen screen;
  Progress progress(screen.out, screen.options(true));
  for (std::int64_t step = 1; step <= 99; ++step) {
    progress.update(at(step));
    screen.now += 0.001;
  }
  const std::string text = screen.take();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\r'), 1);
  progress.update(at(100));
  EXPECT_THAT(screen.take(), HasSubstr("100%")) << "the end of an epoch is always drawn";
}

TEST(Progress, FitsANarrowTerminal) {
  for (int columns = 1; columns <= 120; ++columns) {
    Screen screen;
    screen.columns = columns;
    Progress progress(screen.out, screen.options(true));
    for (std::int64_t step = 1; step <= 30; ++step) {
      progress.update(at(step));
      screen.now += 0.1;
    }
    const std::string text = screen.take();
    std::string last = text.substr(text.rfind('\r') + 1);
    last.resize(last.size() - 3);  // "\x1b[K"
    EXPECT_LT(static_cast<int>(last.size()), std::max(columns, 2))
        << "a bar as wide as the terminal would wrap";
    EXPECT_THAT(last, StartsWith(std::string("epoch 1/2").substr(0, last.size())));
    if (columns > 45) {
      EXPECT_THAT(last, AllOf(HasSubstr("loss 0.2500"), HasSubstr("left")));
    }
    if (columns > 80) {
      EXPECT_THAT(last, AllOf(HasSubstr("samples/s"), HasSubstr("[====")));
    }
  }
}

TEST(Progress, ColoursOnlyWhenAsked) {
  for (const bool colour : {false, true}) {
    Screen screen;
    Progress progress(screen.out, screen.options(true, colour));
    progress.update(at(50));
    EXPECT_EQ(screen.take().find("\x1b[32m") != std::string::npos, colour);
  }
}

TEST(Progress, PlainLinesNowAndThenWithoutATerminal) {
  Screen screen;
  Progress progress(screen.out, screen.options(false));
  std::string text;
  for (std::int64_t step = 1; step <= 200; ++step) {
    progress.update(at(step));
    screen.now += 0.25;  // 200 samples/s; an epoch takes 25 s
  }
  text = screen.take();
  EXPECT_THAT(text, Not(HasSubstr("\r")));
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
  EXPECT_THAT(text, StartsWith("epoch 1/2 step 41/200 loss 0.2500 200 samples/s 40s left\n"));
  EXPECT_THAT(text, EndsWith("epoch 2/2 step 161/200 loss 0.2500 200 samples/s 9.8s left\n"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4) << text;  // one every ten seconds
  progress.clear();
  EXPECT_EQ(screen.take(), "");
}

TEST(Progress, MessagesStandOnTheirOwnLine) {
  Screen screen;
  {
    Progress progress(screen.out, screen.options(true));
    progress.update(at(10));
    screen.take();
    progress.message("epoch 1: validation accuracy 0.9");
    EXPECT_EQ(screen.take(), "\r\x1b[Kepoch 1: validation accuracy 0.9\n");
    screen.now += 1;
    progress.update(at(11));
    EXPECT_THAT(screen.take(), StartsWith("\repoch 1/2"));
  }
  EXPECT_EQ(screen.take(), "\r\x1b[K") << "the end clears the bar";
}

TEST(Progress, AnEvaluationDoesNotSpoilTheRate) {
  Screen screen;
  Progress progress(screen.out, screen.options(true));
  std::int64_t step = 1;
  for (; step <= 50; ++step) {
    progress.update(at(step));
    screen.now += 0.1;
  }
  progress.clear();
  screen.now += 60;
  for (; step <= 80; ++step) {
    progress.update(at(step));
    screen.now += 0.1;
  }
  EXPECT_NEAR(progress.samples_per_second(), 500, 1);
}

TEST(Progress, UnknownsAreLeftOut) {
  Screen screen;
  Progress progress(screen.out, screen.options(true));
  progress.update(at(1));
  EXPECT_THAT(screen.take(), AllOf(Not(HasSubstr("left")), Not(HasSubstr("samples/s"))));
  ProgressState s = at(2);
  s.epochs = 0;
  s.loss = std::numeric_limits<double>::quiet_NaN();
  screen.now += 1;
  progress.update(s);
  EXPECT_THAT(screen.take(), AllOf(HasSubstr("epoch 1 ["), HasSubstr("loss nan")));
}

}  // namespace
}  // namespace lockstep
