#include "trainer/step/flat_position.h"

#include <algorithm>
#include <bit>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sstream>

#include "core/block_hash.h"

namespace lockstep {
namespace {

std::vector<float> plain_of(const Executor& executor, const FlatSegment& segment,
                            std::span<const float> stored) {
  std::vector<float> plain(static_cast<std::size_t>(segment.shape.elements()));
  executor.export_plain(segment, stored, plain);
  return plain;
}

FlatPosition position_of(const FlatSegment& segment, std::size_t element, float value) {
  FlatPosition position;
  position.parameter = segment.name;
  position.value = value;
  auto left = static_cast<std::int64_t>(element);
  for (std::size_t axis = segment.shape.rank(); axis-- > 0;) {
    position.index.insert(position.index.begin(), left % segment.shape[axis]);
    left /= segment.shape[axis];
  }
  return position;
}

bool same_bits(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

}  // namespace

std::string FlatPosition::text() const {
  return index.empty() ? parameter : fmt::format("{}[{}]", parameter, fmt::join(index, ","));
}

std::string bits_text(float value) {
  return fmt::format("{} (0x{:08x})", value, std::bit_cast<std::uint32_t>(value));
}

std::optional<FlatPosition> find_element(const Executor& executor, std::span<const float> flat,
                                         const std::function<bool(float)>& found) {
  for (const FlatSegment& segment : executor.layout().segments) {
    const std::span<const float> stored = stored_in(segment, flat);
    if (std::none_of(stored.begin(), stored.end(), found)) continue;
    const std::vector<float> plain = plain_of(executor, segment, stored);
    const auto it = std::find_if(plain.begin(), plain.end(), found);
    if (it != plain.end()) return position_of(segment, static_cast<std::size_t>(it - plain.begin()), *it);
  }
  return std::nullopt;
}

std::optional<FlatPosition> first_difference(Communicator& comm, const Executor& executor, int a, int b,
                                             std::span<const float> flat) {
  const auto& segments = executor.layout().segments;
  const bool is_a = comm.rank() == a, is_b = comm.rank() == b;
  std::vector<std::uint64_t> hashes(segments.size()), theirs(segments.size());
  if (is_a || is_b)
    for (std::size_t s = 0; s < segments.size(); ++s)
      hashes[s] = hash_floats(plain_of(executor, segments[s], stored_in(segments[s], flat)));
  theirs = hashes;
  comm.broadcast(std::as_writable_bytes(std::span(theirs)), a);
  std::int64_t first = -1;
  if (is_b) {
    const auto differ = std::mismatch(hashes.begin(), hashes.end(), theirs.begin());
    if (differ.first != hashes.end()) first = differ.first - hashes.begin();
  }
  comm.broadcast(std::as_writable_bytes(std::span(&first, 1)), b);
  if (first < 0) return std::nullopt;
  const FlatSegment& segment = segments[static_cast<std::size_t>(first)];
  std::vector<float> of_a(static_cast<std::size_t>(segment.shape.elements()));
  if (is_a) of_a = plain_of(executor, segment, stored_in(segment, flat));
  comm.broadcast(std::as_writable_bytes(std::span(of_a)), a);
  struct Found {
    std::int64_t element = 0;
    float value = 0, other = 0;
  } found;
  if (is_b) {
    const std::vector<float> own = plain_of(executor, segment, stored_in(segment, flat));
    const auto differ = std::mismatch(of_a.begin(), of_a.end(), own.begin(), same_bits);
    found = {differ.first - of_a.begin(), *differ.first, *differ.second};
  }
  comm.broadcast(std::as_writable_bytes(std::span(&found, 1)), b);
  FlatPosition position = position_of(segment, static_cast<std::size_t>(found.element), found.value);
  position.other = found.other;
  return position;
}

}  // namespace lockstep
