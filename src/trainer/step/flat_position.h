#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "model/plan/executor.h"

namespace lockstep {

/// The part of a flat buffer in the executor's layout that `segment` takes, padding included.
template <class T>
std::span<T> stored_in(const FlatSegment& segment, std::span<T> flat) {
  return flat.subspan(static_cast<std::size_t>(segment.storage.begin),
                      static_cast<std::size_t>(segment.storage.size()));
}

/// An element of a flat buffer, as people know it.
struct FlatPosition {
  std::string parameter;            ///< or running statistic
  std::vector<std::int64_t> index;  ///< in the plain row-major tensor
  float value = 0;
  float other = 0;  ///< where two buffers are compared: the value there
  /// "conv1.weight[3,0,1,1]"
  std::string text() const;
};

/// The first element, in the order of segments and then in plain order, for which `found` holds, of a flat
/// buffer in the executor's layout. Padding is not looked at.
std::optional<FlatPosition> find_element(const Executor& executor, std::span<const float> flat,
                                         const std::function<bool(float)>& found);

/// (all) The first element, in the same order, in which the flat buffer of rank `a` differs from that of rank
/// `b`, bit by bit; nothing when only padding differs, or nothing. Both ranks must be given; `flat` is read
/// on these two only. Equal on every rank; `value` is a's, `other` is b's.
std::optional<FlatPosition> first_difference(Communicator& comm, const Executor& executor, int a, int b,
                                             std::span<const float> flat);

/// A float with its bits: "1.5 (0x3fc00000)".
std::string bits_text(float value);

}  // namespace lockstep
