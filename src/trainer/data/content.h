#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "data/memory_dataset.h"

namespace lockstep {

struct DataInfo;

/// Image files of at most so many bytes (unpacked) are digested whole.
inline constexpr std::uint64_t most_whole_bytes = std::uint64_t{1} << 30;

/// What one data set held when it was read: by this it is known again, wherever its files lie, packed or not.
struct DataContent {
  std::string key;           ///< "data.train", "data.validation", "data.test"; for predictions "--input"
  std::string name;          ///< of the file that holds the samples, without its folder
  std::string answers_name;  ///< of the file that holds the labels or targets, where it is another one
  std::int64_t samples = 0;
  std::int64_t files = 0;  ///< of inputs, where a pattern or a list names a set of them; 0: one file, no set
  std::string inputs;   ///< SHA-256 of the values as read, 64 digits; of an image file that is not whole, of
                        ///< its size and of blocks that are a function of the seed; of a set of files, of
                        ///< their sizes, headers and of such blocks
  bool whole = true;    ///< `inputs` covers every value
  std::string answers;  ///< SHA-256 of all labels or targets, 64 digits; empty where there are none
  friend bool operator==(const DataContent&, const DataContent&) = default;
};

/// Digests what a reader gave. `seed` chooses the blocks of an image file of more than `most_whole` bytes.
DataContent content_of(const std::string& key, const MemoryContent& read, std::uint64_t seed,
                       std::uint64_t most_whole = most_whole_bytes);

/// In what `now` differs from `was`: a clause for each data set, such as "data.train: the labels in 'a.csv'
/// are others". Names of files do not count. Empty when the contents are the same.
std::vector<std::string> differences(const std::vector<DataContent>& was,
                                     const std::vector<DataContent>& now);

/// A change of the data that the user has allowed.
struct DataChange {
  std::int64_t step = 0;           ///< steps taken before the first one with the new data
  std::vector<std::string> what;   ///< as differences() tells it
  std::vector<DataContent> files;  ///< as they were before
};

/// What a run remembers of its data: in every checkpoint, and in data.json of the run directory.
struct DataRecord {
  std::vector<DataContent> files;  ///< by key; empty for synthetic data
  std::vector<DataChange> changes;
  /// One JSON object.
  std::string to_json() const;
  /// Reads what to_json() wrote; everything else is an InputError that names `origin`.
  static DataRecord from_json(const std::string& text, const std::string& origin);
};

/// (all) Throws InputError, alike on every rank, where the ranks have read different data under the same
/// names: it names the rank that stands alone, its host and the folder that it was started in.
void check_same_data(Communicator& comm, const std::vector<DataContent>& mine);

/// (all) The same for the names that the ranks took from the training file, of columns and of classes, which
/// no digest of a content covers: it names the first that differs.
void check_same_names(Communicator& comm, const DataInfo& mine);

}  // namespace lockstep
