#include "core/printable.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/utf8.h"

namespace lockstep {
namespace {

using ::testing::EndsWith;
using ::testing::StartsWith;

TEST(Printable, WhatCanBeSeenStaysAsItIs) {
  for (const char* text : {"", "plain 'text' \\ with |signs|", "émeu", "日本語", "e\xcc\x81", "🐈", "שלום"})
    EXPECT_EQ(printable(text), text);
}

TEST(Printable, NothingMovesTheCursorOrBreaksALine) {
  EXPECT_EQ(printable("a\x1b[2Jb"), "a\\x1b[2Jb");
  EXPECT_EQ(printable("a\nb\r\tc\x7f\x07"), "a\\nb\\r\\tc\\x7f\\x07");
  EXPECT_EQ(printable("\xc2\x9b"
                      "31m"),
            "\\u{9b}31m")
      << "a control of one character in ISO 8859";
  EXPECT_EQ(printable("\xe2\x80\xae"
                      "abc"),
            "\\u{202e}abc")
      << "turns the direction of writing";
  EXPECT_EQ(printable("\xe2\x80\xa8"), "\\u{2028}") << "breaks the line";
  EXPECT_EQ(printable("\xef\xbb\xbf"
                      "a"),
            "\\u{feff}a");
  EXPECT_EQ(printable(std::string_view("a\0b", 3)), "a\\x00b");
}

TEST(Printable, BytesThatAreNoUtf8AreSaid) {
  EXPECT_EQ(printable("caf\xe9"), "caf\\xe9");
  EXPECT_EQ(printable("\xff\xfe"), "\\xff\\xfe");
  EXPECT_EQ(printable("\xed\xa0\x80"), "\\xed\\xa0\\x80") << "half of a pair of UTF-16";
  EXPECT_EQ(printable("\xe6\x97"), "\\xe6\\x97") << "cut off";
  EXPECT_EQ(printable("\xc0\x9b"), "\\xc0\\x9b") << "an escape in two bytes";
  for (int lead = 0; lead < 256; ++lead)
    for (int next = 0; next < 256; next += 3) {
      const std::string text{static_cast<char>(lead), static_cast<char>(next), 'x'};
      const std::string shown = printable(text);
      EXPECT_TRUE(is_utf8(shown)) << lead << " " << next;
      for (const char c : shown) EXPECT_GE(static_cast<unsigned char>(c), 0x20) << lead << " " << next;
    }
}

TEST(Printable, LongTextIsCutByItsColumns) {
  EXPECT_EQ(printable("abcdef", 6), "abcdef");
  EXPECT_EQ(printable("abcdefg", 6), "abcde…");
  EXPECT_EQ(printable("日本語", 6), "日本語");
  EXPECT_EQ(printable("日本語だ", 6), "日本…") << "half a wide character is none";
  EXPECT_EQ(printable("ab\x1b"
                      "cdef",
                      6),
            "ab…")
      << "an escape is not cut";
  EXPECT_EQ(printable("abc", 1), "…");
  const std::string cut = printable(std::string(10'000'000, 'a') + "\x1b", 40);
  EXPECT_EQ(display_width(cut), 40u);
  // Marks have no columns: without a bound any number of them would fit.
  std::string marks = "e";
  for (int i = 0; i < 100'000; ++i) marks += "\xcc\x81";
  EXPECT_LT(printable(marks, 40).size(), 300u);
}

TEST(PrintableMessage, KeepsItsOwnLinesAndBothEnds) {
  EXPECT_EQ(printable_message("wrong:\n  conv:32\n  ^"), "wrong:\n  conv:32\n  ^");
  EXPECT_EQ(printable_message("'a\nlockstep: error: b' is missing"), "'a\\nlockstep: error: b' is missing");
  const std::string cut = printable_message("begin " + std::string(100'000, 'x') + " end", 200);
  EXPECT_THAT(cut, StartsWith("begin xxx"));
  EXPECT_THAT(cut, EndsWith("xxx end"));
  EXPECT_LE(display_width(cut), 203u);
}

TEST(DisplayWidth, CountsColumnsOfATerminal) {
  EXPECT_EQ(display_width("abc"), 3u);
  EXPECT_EQ(display_width("émeu"), 4u);
  EXPECT_EQ(display_width("e\xcc\x81meu"), 4u) << "the mark stands over the letter before it";
  EXPECT_EQ(display_width("日本"), 4u);
  EXPECT_EQ(display_width("ｱ"), 1u) << "half width";
  EXPECT_EQ(display_width("\xff"), 1u);
  EXPECT_EQ(pad_left("日", 4) + "|", "  日|");
  EXPECT_EQ(pad_right("é", 3) + "|", "é  |");
  EXPECT_EQ(pad_left("long", 2), "long");
}

TEST(TextTable, ColumnsAreAlignedWhateverTheyHold) {
  TextTable table({"name", "n"}, 8);
  table.add({"日本", "1"});
  table.add({"a\x1b[1m", "22"});
  table.add({"abcdefghijk", "3"});
  table.add({"short"});
  EXPECT_EQ(table.text("  "),
            "  name      n\n"
            "  日本      1\n"
            "  a\\x1b[1m  22\n"
            "  abcdefg…  3\n"
            "  short\n");
}

}  // namespace
}  // namespace lockstep
