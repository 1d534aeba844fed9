#include "trainer/run/metrics.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <unistd.h>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/json_number.h"
#include "core/text.h"

namespace lockstep {
namespace {

/// Whether a line of an earlier start stays: it is whole, and tells of what is not done again.
bool stays(std::string_view line, std::int64_t step) {
  const nlohmann::json object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return false;
  // The test set is asked at the end of each start.
  if (object.value("kind", nlohmann::json()) == "test") return false;
  const auto found = object.find("step");
  try {
    return found != object.end() && json_integer_of(*found, "step", 0) <= step;
  } catch (const JsonNumberError&) {
    return false;
  }
}

}  // namespace

MetricsRecord::MetricsRecord(std::string_view kind, std::int64_t step) {
  add("kind", kind);
  add("step", step);
}

MetricsRecord& MetricsRecord::put(std::string_view key, Value value) {
  for (const auto& [name, old] : members_) require(name != key, "a metrics record holds a key twice");
  members_.emplace_back(key, std::move(value));
  return *this;
}

std::string MetricsRecord::json(std::string_view time) const {
  nlohmann::ordered_json object;
  for (const auto& [name, value] : members_) {
    std::visit([&object, &name = name](const auto& v) { object[name] = v; }, value);
  }
  if (!time.empty()) object["time"] = std::string(time);
  return object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

FileDescriptor MetricsFile::open_to_append(const std::string& path) {
  FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  if (!fd) throw InputError(fmt::format("{}: cannot be written: {}", path, std::strerror(errno)));
  return fd;
}

MetricsFile MetricsFile::create(const std::string& path, OnLoss on_loss,
                                const std::function<void()>& before_rename) {
  write_file_atomic(path, std::string_view(), before_rename);
  return {path, open_to_append(path), 0, std::move(on_loss)};
}

MetricsFile MetricsFile::resume(const std::string& path, std::int64_t step, OnLoss on_loss,
                                const std::function<void()>& before_rename) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return create(path, std::move(on_loss), before_rename);
  const std::string old = read_file(path, Empty::allow);
  std::string kept;
  std::int64_t dropped = 0;
  std::size_t begin = 0;
  while (begin < old.size()) {
    const std::size_t newline = old.find('\n', begin);
    const bool whole = newline != std::string::npos;
    const std::string_view line(old.data() + begin, (whole ? newline : old.size()) - begin);
    begin = whole ? newline + 1 : old.size();
    if (whole && stays(line, step)) {
      kept.append(line).append("\n");
    } else {
      ++dropped;
    }
  }
  // A new file in any case: what a job that was cut off still writes goes into the old one.
  try {
    write_file_atomic(path, kept, before_rename);
  } catch (const InputError&) {
    if (before_rename) before_rename();
    // Without room for a copy the file itself is cut, where that comes to the same.
    if (!old.starts_with(kept) || ::truncate(path.c_str(), static_cast<off_t>(kept.size())) != 0) throw;
  }
  return {path, open_to_append(path), dropped, std::move(on_loss)};
}

MetricsFile MetricsFile::add_to(const std::string& path, OnLoss on_loss,
                                const std::function<void()>& before_rename) {
  constexpr std::int64_t every_step = std::numeric_limits<std::int64_t>::max();
  std::error_code ignored;
  const std::string old =
      std::filesystem::exists(path, ignored) ? read_file(path, Empty::allow) : std::string();
  const std::vector<std::string_view> lines = split(old, '\n');  // the last one is empty where all are whole
  if (old.empty() || !lines.back().empty() ||
      !std::all_of(lines.begin(), lines.end() - 1, [](std::string_view l) { return stays(l, every_step); }))
    return resume(path, every_step, std::move(on_loss), before_rename);
  return {path, open_to_append(path), 0, std::move(on_loss)};
}

void MetricsFile::write(const MetricsRecord& record) {
  const std::string line = record.json(time_text()) + "\n";
  const off_t end = ::lseek(fd_.get(), 0, SEEK_END);
  try {
    write_all(fd_.get(), std::as_bytes(std::span(line)), path_);
    losing_ = false;
  } catch (const InputError& e) {
    if (!on_loss_) throw;
    // Half a line would spoil the next one too.
    const bool mended = end >= 0 && ::ftruncate(fd_.get(), end) == 0;
    if (!losing_) on_loss_(mended ? e.what() : std::string(e.what()) + ", and a torn line is left");
    losing_ = true;
  }
}

}  // namespace lockstep
