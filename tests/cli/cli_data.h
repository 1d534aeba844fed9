#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cli/cli_support.h"

// Small data files for runs of the program, and what a refusal must look like.

namespace lockstep::test {

/// A file of unsigned bytes as IDX: 00 00 08 ndim, big-endian extents, data as given.
inline std::string idx_bytes(const std::vector<std::uint32_t>& dims, const std::string& data) {
  std::string out{'\0', '\0', '\x08', static_cast<char>(dims.size())};
  for (const std::uint32_t d : dims)
    for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(d >> shift & 255);
  return out + data;
}

/// `samples` images of 6x6 bytes: those of class c have bright rows from c on.
inline std::string idx_images(std::uint32_t samples, std::uint32_t classes = 3) {
  std::string pixels;
  for (std::uint32_t i = 0; i < samples; ++i)
    for (std::uint32_t p = 0; p < 36; ++p)
      pixels += static_cast<char>(p / 6 / 2 == i % classes ? 200 + (i * 7 + p) % 50 : (i * 5 + p * 3) % 60);
  return idx_bytes({samples, 6, 6}, pixels);
}

inline std::string idx_labels(std::uint32_t samples, std::uint32_t classes = 3) {
  std::string labels;
  for (std::uint32_t i = 0; i < samples; ++i) labels += static_cast<char>(i % classes);
  return idx_bytes({samples}, labels);
}

/// Two features and a class of words: "x,y,kind", then `rows` lines.
inline std::string csv_words(int rows) {
  std::string text = "x,y,kind\n";
  for (int i = 0; i < rows; ++i) {
    const char* kind = i % 3 == 0 ? "cat" : i % 3 == 1 ? "dog" : "emu";
    text += std::to_string(i % 3) + "." + std::to_string(i % 10) + "," + std::to_string((i * 7) % 11) + "," +
            kind + "\n";
  }
  return text;
}

/// Two features and the target y = 2 a - b, `rows` lines below a header.
inline std::string csv_numbers(int rows) {
  std::string text = "a,b,y\n";
  for (int i = 0; i < rows; ++i) {
    const int a = (i * 7) % 13, b = (i * 5) % 11;
    text += std::to_string(a) + "," + std::to_string(b) + "," + std::to_string(2 * a - b) + "\n";
  }
  return text;
}

/// "--key value" pairs after the words of a command.
using Flags = std::vector<std::pair<std::string, std::string>>;

inline std::vector<std::string> with_flags(std::vector<std::string> args, const Flags& flags) {
  for (const auto& [key, value] : flags) {
    args.push_back("--" + key);
    args.push_back(value);
  }
  return args;
}

/// For jobs that are expected to end at once. mpirun then kills what is left without its usual second of
/// grace, which makes the tests quicker and leaves less time to a rank that would be late with its message.
inline ProcessOptions in_time() {
  ProcessOptions options;
  options.timeout_s = 30;
  options.env["OMPI_MCA_odls_base_sigkill_timeout"] = "0";
  return options;
}

/// What Lockstep said, without mpirun's own noise: from the error to its end.
inline std::string error_text(const ProcessResult& result) {
  const std::size_t begin = result.err.find("lockstep: error");
  if (begin == std::string::npos) return "";
  return result.err.substr(begin, result.err.find("\n-----", begin) - begin);
}

/// Exit code 2, in time, with exactly one error for the whole job that holds every fragment.
inline void expect_refusal(const ProcessResult& result, const std::vector<std::string>& fragments) {
  EXPECT_FALSE(result.timed_out) << result.describe();
  EXPECT_EQ(result.exit_code, 2) << result.describe();
  EXPECT_EQ(count(result.err + result.out, "lockstep: error"), 1) << result.describe();
  const std::string text = error_text(result);
  for (const std::string& fragment : fragments)
    EXPECT_NE(text.find(fragment), std::string::npos) << "lacks \"" << fragment << "\": " << text;
}

}  // namespace lockstep::test
