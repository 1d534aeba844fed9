#include "comm/communicator.h"

#include <algorithm>
#include <cstring>

namespace lockstep {

std::vector<std::string> Communicator::all_gather_text(const std::string& mine) {
  const auto ranks = static_cast<std::size_t>(size());
  const std::uint64_t length = mine.size();
  std::vector<std::uint64_t> lengths(ranks);
  all_gather(std::as_bytes(std::span(&length, 1)), std::as_writable_bytes(std::span(lengths)));

  // Texts are padded to the longest: they are short, and one collective of equal parts is all that is needed.
  const std::size_t longest = *std::max_element(lengths.begin(), lengths.end());
  std::vector<std::byte> padded(longest);
  if (!mine.empty()) std::memcpy(padded.data(), mine.data(), mine.size());
  std::vector<std::byte> all(longest * ranks);
  all_gather(padded, all);

  std::vector<std::string> texts(ranks);
  for (std::size_t r = 0; r < ranks; ++r) {
    texts[r].assign(reinterpret_cast<const char*>(all.data()) + r * longest, lengths[r]);
  }
  return texts;
}

std::string Communicator::broadcast_text(const std::string& text, int root) {
  std::uint64_t length = text.size();
  broadcast(std::as_writable_bytes(std::span(&length, 1)), root);
  std::string result = rank() == root ? text : std::string(length, '\0');
  broadcast(std::as_writable_bytes(std::span(result.data(), result.size())), root);
  return result;
}

Verdict agree(Communicator& comm, int code) {
  const std::int32_t mine = code;
  std::vector<std::int32_t> codes(static_cast<std::size_t>(comm.size()));
  comm.all_gather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(codes)));
  for (std::size_t r = 0; r < codes.size(); ++r) {
    if (codes[r] != 0) return {codes[r], static_cast<int>(r)};
  }
  return {};
}

}  // namespace lockstep
