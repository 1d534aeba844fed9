#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

// Plans that were found fastest, kept on disk from run to run. Needs no CUDA.

namespace lockstep::cuda {

struct PlanEntry {
  std::string key;     ///< everything that the choice depends on, and what is computed
  std::string plan;    ///< the library's name of the plan
  double seconds = 0;  ///< that it took
  friend bool operator==(const PlanEntry&, const PlanEntry&) = default;
};

/// No cache file is larger, and no larger one is read.
inline constexpr std::size_t plan_cache_bytes = std::size_t{2} << 20;

/// The text of a cache file, entries from the oldest to the newest. Where they are too many, the oldest are
/// left out.
std::string format_plan_cache(const std::vector<PlanEntry>& entries);

/// The entries of such a text; none when a single byte of it is not as it was written. An empty text holds no
/// entries.
std::optional<std::vector<PlanEntry>> parse_plan_cache(std::string_view text);

/// Where the cache of device.plan_cache = `configured` lies: that file, or plans.txt in that folder; where it
/// is empty, in $XDG_CACHE_HOME/lockstep or $HOME/.cache/lockstep. Empty where neither is an absolute path.
std::string plan_cache_path(const std::string& configured,
                            const std::function<const char*(const char*)>& environment);

/// The cache in one file, which other processes may read and write at the same time. Whatever is wrong with
/// the file, no function throws: the cache is then one in memory, and problem() says why.
class PlanCache {
 public:
  /// An empty path: in memory only. The file is read when something is looked up first.
  explicit PlanCache(std::string path);
  const std::string& path() const { return path_; }

  std::optional<PlanEntry> find(const std::string& key);
  /// Instead of what find() gave, if anything. Keys and plans are printable text.
  void set(const PlanEntry& entry);
  /// Writes what was set since the last time into the file, together with what others wrote there meanwhile.
  /// Of two entries of one key the one that is there stays, unless it is the one that was set anew.
  void save();
  /// Why the file could not be used as it should, one line; empty: all is well.
  const std::string& problem() const { return problem_; }

 private:
  struct Fresh {
    PlanEntry entry;
    std::string instead_of;  ///< the plan that was found no good; empty: there was none
  };
  enum class State { missing, good, damaged, foreign, unusable };
  struct Content {
    State state = State::missing;
    std::vector<PlanEntry> entries;
    std::string reason;
  };

  Content read() const;
  void load();
  void write_merged();
  void complain(const std::string& sentence);

  std::string path_;
  bool loaded_ = false, usable_ = true;
  std::map<std::string, PlanEntry> known_;
  std::vector<Fresh> fresh_;
  std::string problem_;
};

}  // namespace lockstep::cuda
