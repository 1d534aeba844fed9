#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"

namespace lockstep {

/// A file that the user asked a command to write. A regular file is there whole or not at all: it is written
/// beside its name and gets that by close(), so an older one stands until then, and several processes that
/// write one path do not mix. Until then it has no name at all, and a process that is killed leaves nothing;
/// on file systems that cannot do that it has a temporary one, which the next start removes. Devices and
/// pipes, and what lies in /dev or /proc, are written as it comes. Every failure is an InputError that names
/// the option and the path. One rank.
class OutputFile {
 public:
  /// `option`: "--output", for messages. `kept`: paths of files that the command reads, which must not be
  /// overwritten; nor is what why_kept() knows, and "-" is refused.
  OutputFile(std::string option, const std::string& path, const std::vector<std::string>& kept = {});
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void append(std::string_view text);
  /// Writes what is left, and gives the file its name.
  void close();

 private:
  void flush();
  void name_unnamed();
  std::string option_;
  std::string path_;                    // as the user gave it, for messages
  std::string target_;                  // behind links; empty: written as it comes
  std::string temporary_;               // until it is renamed
  std::unique_ptr<FileWriter> writer_;  // of a temporary file with a name
  FileDescriptor fd_;                   // of a device or a pipe, or of a file without a name
  std::string buffer_;
};

/// The path that a new file at `path` is to take the place of: `path` itself, or what a link leads to. Throws
/// InputError for what is there and is no regular file, for what lies in /dev or /proc, and for `kept` as
/// above.
std::string replaceable_path(const std::string& option, const std::string& path,
                             const std::vector<std::string>& kept = {});

}  // namespace lockstep
