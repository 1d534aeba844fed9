#pragma once

#include <fmt/format.h>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace lockstep {

enum class LogLevel { error, warning, info };

/// Messages for the user, one line each: "lockstep: text", "lockstep: warning: text", "lockstep: error:
/// text", with "[rank 3] " before the text once a rank is set. What a message holds of files, paths and the
/// command line is made fit for a terminal here, by printable_message(). A message leaves in one write(2), so
/// lines of ranks and threads do not mix. Logging never throws on account of the stream: there is nobody left
/// to tell. Owned by main and handed down by reference; any thread may log, set_*() only before others do.
class Log {
 public:
  /// `fd` is borrowed; 2 is the standard error stream.
  explicit Log(LogLevel level = LogLevel::info, int fd = 2);
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;
  void set_level(LogLevel level) noexcept { level_ = level; }
  /// The rank to name in every line; negative for none.
  void set_rank(int rank) noexcept { rank_ = rank; }
  bool enabled(LogLevel level) const noexcept { return level <= level_; }

  template <class... Args>
  void info(fmt::format_string<Args...> format, Args&&... args) const {
    write(LogLevel::info, format, std::forward<Args>(args)...);
  }
  template <class... Args>
  void warning(fmt::format_string<Args...> format, Args&&... args) const {
    write(LogLevel::warning, format, std::forward<Args>(args)...);
  }
  template <class... Args>
  void error(fmt::format_string<Args...> format, Args&&... args) const {
    write(LogLevel::error, format, std::forward<Args>(args)...);
  }
  /// `text`, whatever braces it holds; a newline is added.
  void line(LogLevel level, std::string_view text) const;

  /// From here on every message also goes to the end of the file `path`, each line with the time (UTC) before
  /// it, and so do the messages so far. Throws InputError when it cannot be written. A write that fails later
  /// is told once, on the stream. Once in the life of a Log.
  void append_to(const std::string& path);
  bool has_file() const noexcept;
  /// `text`, one line or several, into that file alone; nothing without one.
  void note(std::string_view text) const;

 private:
  template <class... Args>
  void write(LogLevel level, fmt::format_string<Args...> format, Args&&... args) const {
    if (enabled(level)) line(level, fmt::format(format, std::forward<Args>(args)...));
  }
  LogLevel level_;
  int fd_;
  int rank_ = -1;
  struct File;
  std::unique_ptr<File> file_;
};

}  // namespace lockstep
