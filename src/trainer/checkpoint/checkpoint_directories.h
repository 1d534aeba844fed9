#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace lockstep {

// Names and directories below checkpoints/: how they are written, recognised, put in place and removed. Used
// by CheckpointStore alone. Failures of the file system throw InputError with path and cause.

inline constexpr const char* generation_prefix = "gen-";
inline constexpr const char* step_prefix = "step-";
inline constexpr const char* best_prefix = "best-";
/// Names under which nothing is read: what is being written, and what is being deleted.
inline constexpr const char* saving_prefix = ".saving-";
inline constexpr const char* removing_prefix = ".removing-";

/// "gen-000001"
std::string generation_name(std::int64_t generation);
/// "step-000000840", "best-000000840"
std::string step_name(const char* prefix, std::int64_t step);
/// The number in a name as the functions above write it, or nothing.
std::optional<std::int64_t> number_in(const std::string& name, const char* prefix);
/// Whether a name is ".saving-step-000000840.3" or the like.
bool is_hidden_name(const std::string& name);

/// The names in a directory; none when it does not exist.
std::vector<std::string> names_in(const std::string& directory);
/// False for a link to one.
bool is_plain_directory(const std::filesystem::path& path);
/// Whether a directory may be removed: it is one, not a link to one, and holds nothing but what a save
/// writes.
bool is_own(const std::string& directory);

/// Puts a finished directory in its place, durably, and removes the one that was there.
void publish_directory(const std::string& from, const std::string& to);
/// The name goes at once, the content after it: no reader ever sees a directory that is half gone.
void remove_hidden(const std::string& parent, const std::string& name);

}  // namespace lockstep
