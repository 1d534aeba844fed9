#include "trainer/data/content.h"

#include <algorithm>
#include <filesystem>
#include <fmt/format.h>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string_view>

#include "core/digest.h"
#include "core/error.h"
#include "core/json_number.h"
#include "core/numerics/philox.h"
#include "core/printable.h"
#include "core/text.h"
#include "core/utf8.h"
#include "core/wire.h"
#include "data/readers/data_info.h"
#include "device/cpu_info.h"

namespace lockstep {
namespace {

using nlohmann::json;

constexpr std::uint64_t block_bytes = std::uint64_t{1} << 16;
constexpr std::uint64_t blocks_of_a_file = 1024;

std::string file_name(const std::string& path) {
  std::string name = std::filesystem::path(path).filename().string();
  // It is kept as JSON, which is UTF-8. Nothing depends on it.
  if (is_utf8(name)) return name;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x80; }, '?');
  return name;
}

/// The first block, the last one, and of each of 1022 equal ranges between them one that the seed chooses.
void add_blocks(Sha256& hash, std::span<const std::byte> bytes, std::uint64_t seed) {
  const std::uint64_t blocks = (bytes.size() + block_bytes - 1) / block_bytes;
  const std::uint64_t ranges = std::min(blocks, blocks_of_a_file);
  // Op 0 of this purpose divides the samples.
  const PhiloxKey key = random_key(seed, Purpose::split, 0, 1);
  for (std::uint64_t r = 0; r < ranges; ++r) {
    const std::uint64_t begin = blocks * r / ranges, count = blocks * (r + 1) / ranges - begin;
    std::uint64_t block = begin + random_block(key, r, 0).v[0] % count;
    if (r == 0) block = 0;
    if (r + 1 == ranges) block = blocks - 1;
    const std::uint64_t at = block * block_bytes;
    hash.update_u64(block);
    hash.update(bytes.subspan(at, std::min<std::uint64_t>(block_bytes, bytes.size() - at)));
  }
}

template <class T>
std::string digest_of(std::string_view type, const std::vector<T>& values) {
  Sha256 hash;
  hash.update(type);
  hash.update_u64(values.size());
  hash.update(std::as_bytes(std::span(values)));
  return hash.hex();
}

/// Enough of a digest to tell two apart.
std::string brief(const std::string& digest) {
  return digest.substr(0, 12);
}

std::string named(const DataContent& content, bool answers) {
  return fmt::format(
      "'{}'", printable(answers && !content.answers_name.empty() ? content.answers_name : content.name));
}

std::string difference(const DataContent& was, const DataContent& now) {
  if (was.samples != now.samples)
    return fmt::format("{}: {} holds {} samples instead of {}", now.key, named(now, false), now.samples,
                       was.samples);
  if (was.files != now.files)
    return fmt::format("{}: {} is a set of {} files instead of {}", now.key, named(now, false), now.files,
                       was.files);
  std::vector<std::string> parts;
  const auto add = [&](const char* what, bool answers, const std::string& a, const std::string& b) {
    if (a == b) return;
    parts.push_back(fmt::format("the {} in {} are others (SHA-256 {} instead of {})", what,
                                named(now, answers), b.empty() ? "none" : brief(b),
                                a.empty() ? "none" : brief(a)));
  };
  add("inputs", false, was.inputs, now.inputs);
  add("labels or targets", true, was.answers, now.answers);
  return parts.empty() ? "" : fmt::format("{}: {}", now.key, fmt::join(parts, ", and "));
}

json to_object(const DataContent& c) {
  json j{{"key", c.key},         {"name", c.name},
         {"samples", c.samples}, {"inputs_sha256", c.inputs},
         {"whole", c.whole},     {"answers_sha256", c.answers}};
  if (!c.answers_name.empty()) j["answers_name"] = c.answers_name;
  if (c.files != 0) j["files"] = c.files;
  return j;
}

json to_array(const std::vector<DataContent>& files) {
  json all = json::array();
  for (const DataContent& c : files) all.push_back(to_object(c));
  return all;
}

std::int64_t count_of(const json& value) {
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<std::uint64_t>() >> 62 != 0) ||
      value.get<std::int64_t>() < 0)
    throw InputError("a count in it is no whole number from 0");
  return value.get<std::int64_t>();
}

std::string digest_text(const json& value, bool optional) {
  std::string text = value.get<std::string>();
  const bool digits = text.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (!(text.size() == 64 && digits) && !(optional && text.empty()))
    throw InputError("a digest in it is not 64 hexadecimal digits");
  return text;
}

std::vector<DataContent> files_of(const json& list) {
  if (!list.is_array()) throw InputError("its list of files is none");
  std::vector<DataContent> files;
  for (const json& j : list) {
    DataContent c;
    c.key = j.at("key").get<std::string>();
    c.name = j.at("name").get<std::string>();
    c.answers_name = j.value("answers_name", "");
    c.samples = count_of(j.at("samples"));
    if (j.contains("files")) c.files = count_of(j.at("files"));
    c.inputs = digest_text(j.at("inputs_sha256"), false);
    c.whole = j.at("whole").get<bool>();
    c.answers = digest_text(j.at("answers_sha256"), true);
    files.push_back(std::move(c));
  }
  return files;
}

/// A rank that stands alone, and one of those that it is held against.
struct OddRank {
  std::size_t usual = 0, other = 0;
};

/// (all) Nothing where all ranks have the same digest.
std::optional<OddRank> find_odd(Communicator& comm, const Sha256::Digest& mine) {
  std::vector<std::byte> all(static_cast<std::size_t>(comm.size()) * mine.size());
  comm.all_gather(mine, all);
  std::vector<std::string> digests;
  std::map<std::string, int> ranks_with;
  for (std::size_t at = 0; at < all.size(); at += mine.size())
    ++ranks_with[digests.emplace_back(reinterpret_cast<const char*>(all.data()) + at, mine.size())];
  if (ranks_with.size() == 1) return std::nullopt;
  // What most ranks have read is the measure; of equally many, what the lower rank has.
  const auto measure = std::max_element(digests.begin(), digests.end(), [&](const auto& a, const auto& b) {
    return ranks_with.at(a) < ranks_with.at(b);
  });
  const auto odd = std::find_if(digests.begin(), digests.end(), [&](const auto& d) { return d != *measure; });
  return OddRank{static_cast<std::size_t>(measure - digests.begin()),
                 static_cast<std::size_t>(odd - digests.begin())};
}

/// (all)
[[noreturn]] void refuse_odd(Communicator& comm, const OddRank& odd, const std::string& what) {
  std::error_code unknown;
  const std::vector<std::string> places = comm.all_gather_text(
      fmt::format("on {}, started in '{}'", host_name(), std::filesystem::current_path(unknown).string()));
  throw_on_all(
      comm, InputError(fmt::format("rank {} ({}) has read other data than rank {} ({}): {}; all ranks must "
                                   "read the same: copy the files, or name a place that all hosts see",
                                   odd.other, printable(places[odd.other]), odd.usual,
                                   printable(places[odd.usual]), what)));
}

/// "column 2 is named 'zz' instead of 'x'", for the first name that differs; counted from `first`. Empty
/// where all are the same.
std::string other_name(const char* what, const char* plural, std::size_t first,
                       const std::vector<std::string>& was, const std::vector<std::string>& now) {
  for (std::size_t i = 0; i < std::min(was.size(), now.size()); ++i)
    if (was[i] != now[i])
      return fmt::format("{} {} is named '{}' instead of '{}'", what, first + i, printable(now[i]),
                         printable(was[i]));
  if (was.size() == now.size()) return "";
  return fmt::format("it has {} names of {} instead of {}", now.size(), plural, was.size());
}

}  // namespace

DataContent content_of(const std::string& key, const MemoryContent& read, std::uint64_t seed,
                       std::uint64_t most_whole) {
  DataContent content;
  content.key = key;
  content.name = file_name(read.file);
  if (!read.labels_file.empty()) content.answers_name = file_name(read.labels_file);
  content.samples = read.samples;
  content.whole = read.image_file_bytes <= most_whole;
  if (!read.parts.empty()) {
    content.whole = false;
    content.files = static_cast<std::int64_t>(read.parts.size());
    content.inputs = read.identity;
  } else {
    const bool bytes = !read.bytes.empty();
    const std::span<const std::byte> inputs =
        bytes ? std::as_bytes(std::span(read.bytes)) : std::as_bytes(std::span(read.floats));
    Sha256 hash;
    hash.update(bytes ? "bytes" : "floats");
    hash.update_u64(inputs.size());
    if (content.whole)
      hash.update(inputs);
    else
      add_blocks(hash, inputs, seed);
    content.inputs = hash.hex();
  }
  if (!read.labels.empty()) content.answers = digest_of("labels", read.labels);
  if (!read.targets.empty()) content.answers = digest_of("targets", read.targets);
  return content;
}

std::vector<std::string> differences(const std::vector<DataContent>& was,
                                     const std::vector<DataContent>& now) {
  const auto find = [](const std::vector<DataContent>& in, const std::string& key) {
    const auto found = std::find_if(in.begin(), in.end(), [&](const DataContent& c) { return c.key == key; });
    return found == in.end() ? nullptr : &*found;
  };
  std::vector<std::string> all;
  for (const DataContent& c : now) {
    const DataContent* before = find(was, c.key);
    std::string text = before == nullptr
                           ? fmt::format("{}: {} is given, and there was none before", c.key, named(c, false))
                           : difference(*before, c);
    if (!text.empty()) all.push_back(std::move(text));
  }
  for (const DataContent& c : was)
    if (find(now, c.key) == nullptr)
      all.push_back(fmt::format("{}: there is none, and {} was given before", c.key, named(c, false)));
  return all;
}

std::string DataRecord::to_json() const {
  json j{{"files", to_array(files)}, {"changes", json::array()}};
  for (const DataChange& c : changes)
    j["changes"].push_back({{"step", c.step}, {"what", c.what}, {"files_before", to_array(c.files)}});
  return j.dump(2);
}

DataRecord DataRecord::from_json(const std::string& text, const std::string& origin) {
  const auto refusal = [&](const std::string& what) {
    return InputError(fmt::format("{}: what the run knows of its data cannot be read: {}", origin, what));
  };
  DataRecord record;
  try {
    const json j = json::parse(text);
    record.files = files_of(j.at("files"));
    if (!j.at("changes").is_array()) throw InputError("its list of changes is none");
    for (const json& c : j.at("changes"))
      record.changes.push_back({count_of(c.at("step")), c.at("what").get<std::vector<std::string>>(),
                                files_of(c.at("files_before"))});
  } catch (const json::exception& e) {
    throw refusal(json_fault(e));
  } catch (const InputError& e) {
    throw refusal(e.what());
  }
  return record;
}

void check_same_data(Communicator& comm, const std::vector<DataContent>& mine) {
  if (comm.size() == 1) return;
  // Names do not count: one rank may have found packed labels where another one has them unpacked.
  std::vector<DataContent> nameless = mine;
  for (DataContent& c : nameless) c.name = c.answers_name = "";
  Sha256 hash;
  hash.update(DataRecord{nameless, {}}.to_json());
  const std::optional<OddRank> odd = find_odd(comm, hash.digest());
  if (!odd) return;
  const std::vector<std::string> texts = comm.all_gather_text(DataRecord{mine, {}}.to_json());
  const std::vector<std::string> what =
      differences(DataRecord::from_json(texts[odd->usual], "data of a rank").files,
                  DataRecord::from_json(texts[odd->other], "data of a rank").files);
  refuse_odd(comm, *odd, fmt::format("{}", fmt::join(what, "; ")));
}

void check_same_names(Communicator& comm, const DataInfo& mine) {
  if (comm.size() == 1) return;
  Sha256 hash;
  for (const std::vector<std::string>* names : {&mine.csv.columns, &mine.class_names}) {
    hash.update_u64(names->size());
    for (const std::string& name : *names) {
      hash.update_u64(name.size());
      hash.update(name);
    }
  }
  const std::optional<OddRank> odd = find_odd(comm, hash.digest());
  if (!odd) return;
  const std::vector<std::string> texts =
      comm.all_gather_text(WireWriter().add(mine.csv.columns).add(mine.class_names).text());
  WireReader was(texts[odd->usual]), now(texts[odd->other]);
  const auto columns_were = was.get<std::vector<std::string>>(),
             columns = now.get<std::vector<std::string>>();
  const auto classes_were = was.get<std::vector<std::string>>(),
             classes = now.get<std::vector<std::string>>();
  std::string what = other_name("column", "columns", 1, columns_were, columns);
  if (what.empty()) what = other_name("class", "classes", 0, classes_were, classes);
  refuse_odd(comm, *odd, "data.train: " + (what.empty() ? "names of columns or classes differ" : what));
}

}  // namespace lockstep
