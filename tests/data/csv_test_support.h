#pragma once

#include <gtest/gtest.h>
#include <string>

#include "data/readers/csv.h"
#include "data/test_support.h"

namespace lockstep::test {

/// Loads CSV text by way of a file.
class CsvFiles : public ::testing::Test {
 protected:
  CsvContent load(const std::string& text, const CsvOptions& options = {}) {
    put_file(dir_ / "t.csv", text);
    return load_csv(dir_ / "t.csv", "data.train", options);
  }
  std::string refused(const std::string& text, const CsvOptions& options = {}) {
    return error_of([&] { load(text, options); });
  }
  static CsvOptions with(LabelUse use, const std::string& label = "", const CsvSchema* trained = nullptr) {
    CsvOptions options;
    options.use = use;
    options.label = label;
    options.trained = trained;
    return options;
  }
  static CsvOptions with_header(const std::string& header, LabelUse use = LabelUse::classes) {
    CsvOptions options = with(use);
    options.header = header;
    return options;
  }
  static CsvOptions without(const std::string& columns, const std::string& label = "") {
    CsvOptions options = with(LabelUse::classes, label);
    options.drop = columns;
    return options;
  }
  static CsvOptions separated(char delimiter) {
    CsvOptions options;
    options.delimiter = delimiter;
    return options;
  }
  /// `rows` lines of fractions and one of three words.
  static std::string words(int rows) {
    std::string text;
    for (int i = 0; i < rows; ++i)
      text += std::to_string(i % 7) + ".5," + std::to_string(i % 5) + ".25," +
              (i % 3 == 0   ? "cat"
               : i % 3 == 1 ? "dog"
                            : "emu") +
              "\n";
    return text;
  }
  TempDir dir_;
};

}  // namespace lockstep::test
