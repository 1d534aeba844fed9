#include "core/wire.h"

#include <cmath>
#include <gtest/gtest.h>
#include <limits>

#include "core/error.h"

namespace lockstep {
namespace {

constexpr std::int64_t lowest = std::numeric_limits<std::int64_t>::min();
constexpr std::uint64_t highest = std::numeric_limits<std::uint64_t>::max();

std::string everything() {
  WireWriter out;
  out.add(lowest)
      .add(highest)
      .add(-7)
      .add(true)
      .add(0.1)
      .add(std::nan(""))
      .add("")
      .add(std::string("a\0\n\x1f b\xff", 7));
  out.add(std::vector<int>{3, -1}).add(std::vector<std::string>{"x", ""}).add(std::vector<double>{});
  out.begin_list(1).add("key").add(5u);
  return out.text();
}

void read_everything(const std::string& text) {
  WireReader in(text);
  EXPECT_EQ(in.get<std::int64_t>(), lowest);
  EXPECT_EQ(in.get<std::uint64_t>(), highest);
  EXPECT_EQ(in.get<int>(), -7);
  EXPECT_TRUE(in.get<bool>());
  EXPECT_EQ(in.get<double>(), 0.1);
  EXPECT_TRUE(std::isnan(in.get<double>()));
  EXPECT_EQ(in.get<std::string>(), "");
  EXPECT_EQ(in.get<std::string>(), std::string("a\0\n\x1f b\xff", 7));
  EXPECT_EQ(in.get<std::vector<int>>(), (std::vector<int>{3, -1}));
  EXPECT_EQ(in.get<std::vector<std::string>>(), (std::vector<std::string>{"x", ""}));
  EXPECT_TRUE(in.get<std::vector<double>>().empty());
  EXPECT_EQ(in.get_list(), 1u);
  EXPECT_EQ(in.get<std::string>(), "key");
  EXPECT_EQ(in.get<unsigned>(), 5u);
  in.finish();
}

TEST(Wire, ValuesOfEveryKindComeBackAsTheyWere) {
  read_everything(everything());
}

TEST(Wire, ATextCutAtAnyByteIsRefusedWithThePlace) {
  const std::string whole = everything();
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) {
    try {
      read_everything(whole.substr(0, bytes));
      ADD_FAILURE() << "read from " << bytes << " bytes";
    } catch (const InternalError& e) {
      EXPECT_NE(std::string(e.what()).find("of " + std::to_string(bytes) + ": it ends early"),
                std::string::npos)
          << e.what();
    }
  }
}

TEST(Wire, AValueOfAnotherKindIsRefused) {
  const std::string number = WireWriter().add(5).text();
  EXPECT_THROW(WireReader(number).get<unsigned>(), InternalError);
  EXPECT_THROW(WireReader(number).get<double>(), InternalError);
  EXPECT_THROW(WireReader(number).get<std::string>(), InternalError);
  EXPECT_THROW(WireReader(number).get_list(), InternalError);
  EXPECT_THROW(WireReader(WireWriter().add("5").text()).get<int>(), InternalError);
}

TEST(Wire, ANumberThatTheTypeCannotHoldIsRefused) {
  const std::string large = WireWriter().add(std::int64_t{1} << 40).text();
  EXPECT_EQ(WireReader(large).get<std::int64_t>(), std::int64_t{1} << 40);
  EXPECT_THROW(WireReader(large).get<int>(), InternalError);
  EXPECT_THROW(WireReader(WireWriter().add(2u).text()).get<bool>(), InternalError);
  EXPECT_THROW(WireReader(WireWriter().add(70'000u).text()).get<std::uint16_t>(), InternalError);
}

TEST(Wire, ALengthBeyondTheTextTakesNoMemory) {
  const std::string list = WireWriter().begin_list(highest).text() + "rest";
  EXPECT_THROW(WireReader(list).get<std::vector<int>>(), InternalError);
  std::string text = WireWriter().add("word").text();
  for (std::size_t i = 1; i < 9; ++i) text[i] = '\xff';
  EXPECT_THROW(WireReader(text).get<std::string>(), InternalError);
}

TEST(Wire, WhatIsLeftBehindTheLastValueIsRefused) {
  const std::string two = WireWriter().add(1).add(2).text();
  WireReader in(two);
  EXPECT_EQ(in.get<int>(), 1);
  EXPECT_FALSE(in.at_end());
  EXPECT_THROW(in.finish(), InternalError);
  EXPECT_EQ(in.get<int>(), 2);
  EXPECT_TRUE(in.at_end());
  in.finish();
}

}  // namespace
}  // namespace lockstep
