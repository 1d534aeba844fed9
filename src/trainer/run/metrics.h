#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "core/file.h"

namespace lockstep {

/// One line of metrics.jsonl: a JSON object whose first members are "kind" and "step", then what is added, in
/// that order. `step` counts the updates that were made when the line was written.
class MetricsRecord {
 public:
  MetricsRecord(std::string_view kind, std::int64_t step);
  /// Numbers are written with the fewest digits that read back to the same value; NaN and infinities as null,
  /// which is what JSON has for them. A key may be added once.
  MetricsRecord& add(std::string_view key, double value) { return put(key, value); }
  template <std::integral Integer>
  MetricsRecord& add(std::string_view key, Integer value) {
    if constexpr (std::same_as<Integer, bool>) {
      return put(key, value);
    } else {
      using Wide = std::conditional_t<std::unsigned_integral<Integer>, std::uint64_t, std::int64_t>;
      return put(key, static_cast<Wide>(value));
    }
  }
  MetricsRecord& add(std::string_view key, std::string_view value) { return put(key, std::string(value)); }
  MetricsRecord& add(std::string_view key, const char* value) { return put(key, std::string(value)); }
  MetricsRecord& add(std::string_view key, std::vector<double> values) { return put(key, std::move(values)); }
  MetricsRecord& add(std::string_view key, std::vector<std::int64_t> values) {
    return put(key, std::move(values));
  }
  /// The object, without a newline. Bytes that are no UTF-8 are replaced. `time` becomes its last member,
  /// unless it is empty.
  std::string json(std::string_view time = {}) const;

 private:
  using Value = std::variant<bool, std::int64_t, std::uint64_t, double, std::string, std::vector<double>,
                             std::vector<std::int64_t>>;
  MetricsRecord& put(std::string_view key, Value value);
  std::vector<std::pair<std::string, Value>> members_;
};

/// metrics.jsonl of a run: one JSON object a line, each written by one system call, so that a line is there
/// as soon as write() returns and a killed process leaves at most its last line torn. One rank writes. Errors
/// are InputErrors that name the path.
class MetricsFile {
 public:
  /// Told when a line is lost because the disk is full or fails, once for lines that are lost in a row: the
  /// training is worth more than its log. Without one, write() throws.
  using OnLoss = std::function<void(const std::string& cause)>;
  /// Begins a new file, replacing one that is there. `before_rename` as for write_file_atomic.
  static MetricsFile create(const std::string& path, OnLoss on_loss = {},
                            const std::function<void()>& before_rename = {});
  /// Goes on with the file of a run that resumes after `step` updates: keeps the lines whose "step" is at
  /// most `step` and drops all others, also torn ones, so that no step is told twice. The file is replaced as
  /// a whole, so that a job that was cut off writes into the old one. Without a file it begins one.
  static MetricsFile resume(const std::string& path, std::int64_t step, OnLoss on_loss = {},
                            const std::function<void()>& before_rename = {});

  /// Goes on with the file of a run that has nothing left to train: keeps the lines of all steps. The file is
  /// replaced, as by resume(), only where it holds a test, which is made again, or a torn line; else another
  /// job that was stopped may still add to it.
  static MetricsFile add_to(const std::string& path, OnLoss on_loss = {},
                            const std::function<void()>& before_rename = {});

  /// With the time of day in UTC as its last member, "time".
  void write(const MetricsRecord& record);
  /// Lines that resume() dropped.
  std::int64_t dropped() const { return dropped_; }

 private:
  MetricsFile(std::string path, FileDescriptor fd, std::int64_t dropped, OnLoss on_loss)
      : path_(std::move(path)), fd_(std::move(fd)), dropped_(dropped), on_loss_(std::move(on_loss)) {}
  static FileDescriptor open_to_append(const std::string& path);
  std::string path_;
  FileDescriptor fd_;
  std::int64_t dropped_ = 0;
  OnLoss on_loss_;
  bool losing_ = false;
};

}  // namespace lockstep
