#include "core/text.h"

#include <cmath>
#include <gtest/gtest.h>
#include <limits>

namespace lockstep {
namespace {

const std::vector<std::string> keys = {
    "run.dir",        "run.seed",           "model.name",     "model.layers",    "data.label",
    "train.epochs",   "train.steps",        "train.slices",   "train.bucket_mb", "train.global_batch",
    "optimizer.name", "optimizer.momentum", "optimizer.lr",   "loss.name",       "checkpoint.every_steps",
    "device.threads", "schedule.steps",     "log.every_steps"};

std::string suggestion(std::string_view word, const std::vector<std::string>& known = keys) {
  return nearest_word(word, known).value_or("");
}

TEST(EditDistance, CountsInsertionsDeletionsSubstitutionsAndSwaps) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("abc", ""), 3u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("relu", "rleu"), 1u);
  EXPECT_EQ(edit_distance("ab", "ba"), 1u);
  EXPECT_EQ(edit_distance("ca", "abc"), 3u);  // the restricted form: a swapped pair is not edited again
  EXPECT_EQ(edit_distance("conv", "conv"), 0u);
}

TEST(NearestWord, FindsTypingErrors) {
  EXPECT_EQ(suggestion("train.epoch"), "train.epochs");
  EXPECT_EQ(suggestion("train.ecpohs"), "train.epochs");
  EXPECT_EQ(suggestion("trian.steps"), "train.steps");
  EXPECT_EQ(suggestion("optimizer.momentun"), "optimizer.momentum");
  EXPECT_EQ(suggestion("train.global-batch"), "train.global_batch");
  EXPECT_EQ(suggestion("TRAIN.EPOCHS"), "train.epochs");
  EXPECT_EQ(suggestion("optimiser.lr"), "optimizer.lr");
  EXPECT_EQ(suggestion("rleu", {"conv", "relu", "dense"}), "relu");
  EXPECT_EQ(suggestion("adm", {"sgd", "adam", "adamw"}), "adam");
}

TEST(NearestWord, FindsAbbreviationsAndWrongSections) {
  EXPECT_EQ(suggestion("train.gl"), "train.global_batch");
  EXPECT_EQ(suggestion("epochs"), "train.epochs");
  EXPECT_EQ(suggestion("train.momentum"), "optimizer.momentum");
  EXPECT_EQ(suggestion("lr"), "optimizer.lr");
}

TEST(NearestWord, MakesNoAbsurdSuggestions) {
  EXPECT_EQ(suggestion("colour"), "");
  EXPECT_EQ(suggestion("x"), "");
  EXPECT_EQ(suggestion(""), "");
  EXPECT_EQ(suggestion("network.topology"), "");
  EXPECT_EQ(suggestion("name"), "");  // three keys end so: none is likelier
  EXPECT_EQ(suggestion("lstm", {"conv", "relu", "dense"}), "");
  EXPECT_EQ(suggestion("b", {"a"}), "");
  EXPECT_EQ(suggestion("abc", {}), "");
  EXPECT_EQ(suggestion("abc", {""}), "");
}

TEST(NearestWord, IsQuickForHostileWords) {
  EXPECT_EQ(suggestion(std::string(std::size_t{1} << 24, 'a')), "");
}

TEST(ParseInt64, TakesTheWholeTextOrNothing) {
  EXPECT_EQ(parse_int64("0"), 0);
  EXPECT_EQ(parse_int64("-12"), -12);
  EXPECT_EQ(parse_int64("+12"), 12);
  EXPECT_EQ(parse_int64("007"), 7);
  EXPECT_EQ(parse_int64("9223372036854775807"), std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(parse_int64("-9223372036854775808"), std::numeric_limits<std::int64_t>::min());
  for (const char* bad : {"", " ", "1 ", " 1", "1x", "x1", "1.0", "1e3", "0x10", "--1", "+-1", "-+1", "++1",
                          "+", "-", "9223372036854775808", "-9223372036854775809", "１"})
    EXPECT_EQ(parse_int64(bad), std::nullopt) << '"' << bad << '"';
  EXPECT_EQ(parse_int64(std::string_view("1\0", 2)), std::nullopt);
}

TEST(ParseDouble, TakesFiniteDecimalNumbers) {
  EXPECT_EQ(parse_double("0.1"), 0.1);
  EXPECT_EQ(parse_double("-1e-3"), -1e-3);
  EXPECT_EQ(parse_double("+.5"), 0.5);
  EXPECT_EQ(parse_double("1."), 1.0);
  EXPECT_EQ(parse_double("3"), 3.0);
  EXPECT_EQ(parse_double("1E+05"), 1e5);
  EXPECT_EQ(parse_double("4.9e-324"), std::numeric_limits<double>::denorm_min());
  for (const char* bad :
       {"",    ".",    "nan",  "NaN",  "inf",   "-inf",   "+inf", "infinity", "0x1p3", "0x10", "1e",
        "1,5", "1.5 ", " 1.5", "1.5f", "1e999", "-1e999", "--1",  "+-1",      "1.2.3", "e5"})
    EXPECT_EQ(parse_double(bad), std::nullopt) << '"' << bad << '"';
}

TEST(ReadDecimal, TellsARangeErrorFromASyntaxError) {
  using Kind = DecimalText::Kind;
  const auto kind = [](const std::string& text) { return read_decimal(text).kind; };
  for (const char* good : {"0", "-0.0", "1e5", "4.9e-324", "1e-310", "0e999", "+.5"})
    EXPECT_EQ(kind(good), Kind::number) << good;
  for (const std::string& small : {std::string("1e-400"), std::string("-1e-400"), std::string("0.01e-330"),
                                   std::string("1e-99999999999999999999"), "0." + std::string(400, '0') + "1",
                                   std::string(300, '9') + "e-700", std::string("+1e-400")})
    EXPECT_EQ(kind(small), Kind::too_small) << small;
  for (const std::string& large :
       {std::string("1e400"), std::string("-1e400"), std::string("0.001e400"),
        std::string("1e99999999999999999999"), std::string(400, '9'), "0." + std::string(99, '0') + "1e500"})
    EXPECT_EQ(kind(large), Kind::too_large) << large;
  for (const char* bad : {"", "nan", "inf", "1e", "e5", "1e400x", "1e-400 ", "0x1p3", "--1", "x"})
    EXPECT_EQ(kind(bad), Kind::no_number) << bad;
  EXPECT_EQ(read_decimal("1e-400").value, 0.0);
  EXPECT_TRUE(std::signbit(read_decimal("-1e-400").value));
  EXPECT_EQ(read_decimal("-1e400").value, -std::numeric_limits<double>::infinity());
}

TEST(ParseBool, TakesTheUsualWords) {
  for (const char* yes : {"1", "true", "True", "TRUE", "yes", "on"}) EXPECT_EQ(parse_bool(yes), true) << yes;
  for (const char* no : {"0", "false", "False", "no", "OFF"}) EXPECT_EQ(parse_bool(no), false) << no;
  for (const char* bad : {"", "2", "y", "tru", "true ", "-1"})
    EXPECT_EQ(parse_bool(bad), std::nullopt) << bad;
}

TEST(Trim, RemovesBlanksAtBothEnds) {
  EXPECT_EQ(trim("  a b\t\r\n"), "a b");
  EXPECT_EQ(trim(""), "");
  EXPECT_EQ(trim(" \t\n"), "");
  EXPECT_EQ(trim("a"), "a");
}

TEST(Split, KeepsEmptyFields) {
  using Fields = std::vector<std::string_view>;
  EXPECT_EQ(split("a,b", ','), (Fields{"a", "b"}));
  EXPECT_EQ(split("", ','), (Fields{""}));
  EXPECT_EQ(split(",", ','), (Fields{"", ""}));
  EXPECT_EQ(split("a,,b,", ','), (Fields{"a", "", "b", ""}));
}

TEST(HumanBytes, UsesDecimalUnits) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(1000), "1.0 kB");
  EXPECT_EQ(human_bytes(44'700'000), "44.7 MB");
  EXPECT_EQ(human_bytes(999'949), "999.9 kB");
  EXPECT_EQ(human_bytes(999'960), "1.0 MB");
  EXPECT_EQ(human_bytes(std::numeric_limits<std::uint64_t>::max()), "18.4 EB");
}

TEST(HumanCount, UsesDecimalUnits) {
  EXPECT_EQ(human_count(0), "0");
  EXPECT_EQ(human_count(812), "812");
  EXPECT_EQ(human_count(999.7), "1.0 k");
  EXPECT_EQ(human_count(60'000), "60.0 k");
  EXPECT_EQ(human_count(11'173'962), "11.2 M");
  EXPECT_EQ(human_count(-60'000), "-60.0 k");
}

TEST(GroupedDigits, SeparatesThousands) {
  EXPECT_EQ(grouped_digits(0), "0");
  EXPECT_EQ(grouped_digits(999), "999");
  EXPECT_EQ(grouped_digits(1000), "1,000");
  EXPECT_EQ(grouped_digits(-60000), "-60,000");
  EXPECT_EQ(grouped_digits(-100), "-100");
  EXPECT_EQ(grouped_digits(11173962), "11,173,962");
  EXPECT_EQ(grouped_digits(std::numeric_limits<std::int64_t>::min()), "-9,223,372,036,854,775,808");
}

TEST(HumanDuration, PicksTwoUnits) {
  EXPECT_EQ(human_duration(0), "0ms");
  EXPECT_EQ(human_duration(0.35), "350ms");
  EXPECT_EQ(human_duration(0.9999), "1.0s");
  EXPECT_EQ(human_duration(4.21), "4.2s");
  EXPECT_EQ(human_duration(45), "45s");
  EXPECT_EQ(human_duration(59.7), "1m 00s");
  EXPECT_EQ(human_duration(83), "1m 23s");
  EXPECT_EQ(human_duration(7500), "2h 05m");
  EXPECT_EQ(human_duration(3 * 86400 + 4 * 3600 + 59), "3d 04h");
  EXPECT_EQ(human_duration(-1), "?");
  EXPECT_EQ(human_duration(std::numeric_limits<double>::quiet_NaN()), "?");
  EXPECT_EQ(human_duration(std::numeric_limits<double>::infinity()), "?");
}

}  // namespace
}  // namespace lockstep
