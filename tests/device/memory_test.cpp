#include "device/memory.h"

#include <algorithm>
#include <cstdint>
#include <gtest/gtest.h>
#include <limits>
#include <string>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"

namespace lockstep {
namespace {

TEST(HostBuffer, IsZeroedAlignedAndWritable) {
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{4096}, std::size_t{100'000},
                                  (std::size_t{2} << 20) - 1, std::size_t{2} << 20, std::size_t{5'000'001}}) {
    HostBuffer buffer(bytes);
    ASSERT_EQ(buffer.size(), bytes);
    const std::size_t alignment = bytes >= std::size_t{2} << 20 ? std::size_t{2} << 20 : 4096;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % alignment, 0u) << bytes;
    EXPECT_TRUE(
        std::all_of(buffer.data(), buffer.data() + bytes, [](std::byte b) { return b == std::byte{}; }));
    std::fill_n(buffer.data(), bytes, std::byte{0xff});
  }
}

TEST(HostBuffer, OfNoBytesIsNoMemory) {
  HostBuffer none, zero(0);
  EXPECT_EQ(none.data(), nullptr);
  EXPECT_EQ(zero.data(), nullptr);
  EXPECT_TRUE(zero.as<float>().empty());
}

TEST(HostBuffer, CountsWholeElements) {
  HostBuffer buffer(11);
  EXPECT_EQ(buffer.as<float>().size(), 2u);
  const HostBuffer& constant = buffer;
  EXPECT_EQ(constant.as<double>().size(), 1u);
}

TEST(HostBuffer, MovesAndLeavesNothingBehind) {
  HostBuffer first(64);
  first.data()[3] = std::byte{7};
  HostBuffer second(std::move(first));
  EXPECT_EQ(second.data()[3], std::byte{7});
  // NOLINTNEXTLINE(bugprone-use-after-move,clang-analyzer-cplusplus.Move)
  EXPECT_EQ(first.size(), 0u);
  first = std::move(second);
  EXPECT_EQ(first.size(), 64u);
  // NOLINTNEXTLINE(bugprone-use-after-move,clang-analyzer-cplusplus.Move)
  EXPECT_EQ(second.size(), 0u);
}

TEST(HostBuffer, GivesAllOfItsMemoryBack) {
  // The first field of statm is the size of the address space in pages; a leak of a single byte of a buffer
  // is a page.
  const auto mapped_pages = [] {
    return parse_int64(split(read_file("/proc/self/statm"), ' ').front()).value_or(0);
  };
  const std::int64_t before = mapped_pages();
  ASSERT_GT(before, 0);
  for (const std::size_t bytes : {std::size_t{5000}, std::size_t{3} << 20, (std::size_t{64} << 20) + 1}) {
    for (int i = 0; i < 100; ++i) HostBuffer buffer(bytes);
  }
  EXPECT_LT(mapped_pages() - before, 50);
}

TEST(HostBuffer, NamesTheSizeThatCannotBeHad) {
  for (const std::size_t bytes : {std::numeric_limits<std::size_t>::max(), std::size_t{1} << 60}) {
    try {
      HostBuffer buffer(bytes);
      ADD_FAILURE() << "got " << bytes << " bytes";
    } catch (const DeviceError& e) {
      const std::string expected = bytes == std::size_t{1} << 60 ? "1.2 EB" : "18.4 EB";
      EXPECT_EQ(e.what(), "cannot get " + expected + " of memory: Cannot allocate memory");
    }
  }
}

TEST(AlignUp, GoesToTheNextMultiple) {
  static_assert(align_up(0, 64) == 0 && align_up(1, 64) == 64 && align_up(64, 64) == 64 &&
                align_up(65, 64) == 128);
  SUCCEED();
}

}  // namespace
}  // namespace lockstep
