#include "comm/sync_check.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <fmt/format.h>
#include <limits>
#include <thread>

#include "core/numerics/finite.h"

namespace lockstep::test {
namespace {

bool same_bits(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

float subtree_sum(const SyncCase& c, std::int64_t step, Node node, std::int64_t i) {
  if (node.size() == 1) {
    if (node.begin == 0 && i == c.infinite_at) return std::numeric_limits<float>::infinity();
    const float g = slice_gradient(step, node.begin, i);
    return node.begin == c.flip && i == c.flip_at ? -g : g;
  }
  const std::int64_t middle = split_of(node);
  return subtree_sum(c, step, {node.begin, middle}, i) + subtree_sum(c, step, {middle, node.end}, i);
}

/// What an optimizer would make of the total: any function will do, if it shows every bit.
float updated(float parameter, float total) {
  return parameter * 0.5f + total;
}

/// Leaves the subtree sums in the slots and says so in uneven ranges, last elements last, with progress()
/// between.
void compute(GradientSync& sync, const SyncCase& c, int rank, std::int64_t step) {
  std::int64_t at = 0;
  std::int64_t width = 1 + (rank * 977 + step * 131) % 5000;
  while (at < c.elements) {
    const std::int64_t end = std::min(at + width, c.elements);
    for (std::size_t k = 0; k < sync.subtrees().size(); ++k) {
      const std::span<float> slot = sync.slot(k);
      for (std::int64_t i = at; i < end; ++i) {
        slot[static_cast<std::size_t>(i)] = subtree_sum(c, step, sync.subtrees()[k], i);
      }
    }
    sync.ready({at, end});
    sync.progress();
    at = end;
    width = width * 7 % 9001 + 1;
  }
}

/// Two orders of additions differ by 2 (S - 1) roundings of 2^-24 of the sum of absolute values at most.
float order_bound(const SyncCase& c, std::int64_t step, std::int64_t i) {
  float sum = 0.0f;
  for (std::int64_t slice = 0; slice < c.slices; ++slice) sum += std::fabs(slice_gradient(step, slice, i));
  return 2.0f * static_cast<float>(c.slices) * 0x1p-24f * sum;
}

std::string wrong_totals(const GradientSync& sync, const SyncCase& c, const std::vector<float>& expected,
                         std::int64_t step) {
  std::int64_t covered = 0;
  std::int64_t last = 0;
  for (const TotalView& view : sync.totals()) {
    if (view.range.begin < last) return fmt::format("step {}: totals are not in order", step);
    last = view.range.end;
    covered += view.range.size();
    for (std::int64_t i = view.range.begin; i < view.range.end; ++i) {
      const float got = view.data[i - view.range.begin];
      const float want = expected[static_cast<std::size_t>(i)];
      if (c.reduction == Reduction::ordered ? !same_bits(got, want)
                                            : !(std::fabs(got - want) <= order_bound(c, step, i))) {
        return fmt::format("step {}: total {} is {:a} instead of {:a}", step, i, got, want);
      }
    }
  }
  std::int64_t mine = 0;
  for (const Range& range : sync.shard()) mine += range.size();
  if (covered != mine) return fmt::format("step {}: totals cover {} of {} elements", step, covered, mine);
  return {};
}

std::string wrong_marks(const GradientSync& sync, const std::vector<float>& expected, std::int64_t step) {
  const std::span<const double> marks = sync.finite_marks();
  if (marks.size() != (expected.size() + block_elements - 1) / block_elements)
    return "the number of marks is wrong";
  for (std::size_t b = 0; b < marks.size(); ++b) {
    const std::size_t begin = b * block_elements, end = std::min(begin + block_elements, expected.size());
    const bool finite = all_finite(std::span(expected).subspan(begin, end - begin));
    if (finite ? marks[b] != 0 : !std::isnan(marks[b]))
      return fmt::format("step {}: block {}, {}, is marked {}", step, b, finite ? "finite" : "not finite",
                         marks[b]);
  }
  return {};
}

/// Every rank writes what it says of its own blocks; then everybody must have everybody's.
std::string wrong_block_values(GradientSync& sync, std::int64_t step) {
  const auto value = [&](std::size_t block) {
    return static_cast<double>(step) * 1e6 + static_cast<double>(block);
  };
  const std::span<double> values = sync.block_values();
  std::fill(values.begin(), values.end(), -1.0);
  for (const Range& range : sync.shard())
    for (std::int64_t e = range.begin; e < range.end; e += block_elements) {
      const auto block = static_cast<std::size_t>(e / block_elements);
      if (block >= values.size()) return "a block of the shard has no place among the values";
      values[block] = value(block);
    }
  sync.gather_block_values();
  for (std::size_t b = 0; b < values.size(); ++b)
    if (values[b] != value(b)) return fmt::format("step {}: the value of block {} is {}", step, b, values[b]);
  return {};
}

/// Every rank must hold the same bytes.
std::string differs(Communicator& comm, std::span<const std::byte> mine, const char* what) {
  std::vector<std::byte> all(mine.size() * static_cast<std::size_t>(comm.size()));
  comm.all_gather(mine, all);
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (all[i] != mine[i % mine.size()]) return fmt::format("{} differ between ranks", what);
  }
  return {};
}

void gather(GradientSync& sync, int lanes) {
  std::vector<std::thread> helpers;
  for (int lane = 1; lane < lanes; ++lane)
    helpers.emplace_back([&, lane] { sync.gather_parameters(lane, lanes); });
  sync.gather_parameters(0, lanes);
  for (std::thread& t : helpers) t.join();
}

}  // namespace

std::string SyncCase::text() const {
  return fmt::format("elements {} slices {} bucket {} overlap {} sharded {} lanes {}", elements, slices,
                     bucket_elements, overlap, sharded, lanes);
}

float slice_gradient(std::int64_t step, std::int64_t slice, std::int64_t element) {
  // SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): cheap, so that the tests are.
  std::uint64_t z =
      static_cast<std::uint64_t>((step * 1000 + slice) * 1000003 + element) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  // 24 random bits between -1 and 1, times 2 to the power of -20 to 19.
  const float unit = static_cast<float>(static_cast<std::int64_t>(z >> 40) - (1 << 23)) * 0x1p-23f;
  const auto exponent = static_cast<std::uint32_t>(107 + z % 40);
  return unit * std::bit_cast<float>(exponent << 23);
}

std::int64_t loudest_element(const SyncCase& c, std::int64_t slice) {
  std::int64_t best = 0;
  for (std::int64_t i = 1; i < c.elements; ++i) {
    if (std::fabs(slice_gradient(1, slice, i)) > std::fabs(slice_gradient(1, slice, best))) best = i;
  }
  return best;
}

std::vector<float> direct_totals(const SyncCase& c, std::int64_t step) {
  std::vector<float> totals(static_cast<std::size_t>(c.elements));
  for (std::int64_t i = 0; i < c.elements; ++i) {
    totals[static_cast<std::size_t>(i)] = subtree_sum(c, step, {0, c.slices}, i);
  }
  return totals;
}

std::string check_sync(Communicator& comm, const SyncCase& c, Timeline* timeline) {
  GradientSyncOptions options;
  options.reduction = c.reduction;
  options.overlap = c.overlap;
  options.sharded = c.sharded;
  options.bucket_elements = c.bucket_elements;
  options.slices = c.slices;
  options.finite_marks = true;
  options.block_values = true;
  auto sync = GradientSync::create(comm, c.elements, options, timeline);
  std::string wrong;
  const auto note = [&](const std::string& text) {
    if (wrong.empty()) wrong = text;
  };
  SyncCase truth = c;
  truth.flip = -1;
  std::vector<float> expected_parameters(static_cast<std::size_t>(c.elements), 0.0f);
  for (std::int64_t step = 1; step <= c.steps; ++step) {
    sync->begin_step(step);
    compute(*sync, c, comm.rank(), step);
    sync->finish();
    const std::vector<float> expected = direct_totals(truth, step);
    note(wrong_totals(*sync, c, expected, step));
    note(wrong_marks(*sync, expected, step));
    if (static_cast<std::int64_t>(sync->block_values().size()) != (c.elements + 4095) / 4096)
      note("the number of block values is wrong");
    note(wrong_block_values(*sync, step));

    for (const TotalView& view : sync->totals()) {
      for (std::int64_t i = view.range.begin; i < view.range.end; ++i) {
        float& p = sync->parameters()[static_cast<std::size_t>(i)];
        p = updated(p, view.data[i - view.range.begin]);
      }
    }
    sync->publish_parameters();
    gather(*sync, c.lanes);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      expected_parameters[i] = updated(expected_parameters[i], expected[i]);
      if (c.reduction == Reduction::ordered && !same_bits(sync->parameters()[i], expected_parameters[i])) {
        note(fmt::format("step {}: parameter {} is {:a} instead of {:a}", step, i, sync->parameters()[i],
                         expected_parameters[i]));
      }
    }
    note(differs(comm, std::as_bytes(sync->parameters()), "parameters"));
  }
  if (timeline != nullptr) {  // of these steps alone
    comm.barrier();
    return wrong;
  }
  // One more, with an element that is not finite: every rank must know which block it lies in.
  SyncCase spoilt = truth;
  spoilt.infinite_at = c.elements / 2;
  const std::int64_t last = c.steps + 1;
  sync->begin_step(last);
  compute(*sync, spoilt, comm.rank(), last);
  sync->finish();
  note(wrong_marks(*sync, direct_totals(spoilt, last), last));
  note(wrong_block_values(*sync, last));
  sync->publish_parameters();
  gather(*sync, c.lanes);
  comm.barrier();
  return wrong;
}

}  // namespace lockstep::test
