// The address of a device's memory is not one of the host's: what would take it for one does not compile.

#include "device/device_pointer.h"

#include <gtest/gtest.h>
#include <type_traits>
#include <vector>

namespace lockstep {
namespace {

template <class T>
concept Readable = requires(T p) {
  *p;
}
|| requires(T p) {
  p[0];
};

static_assert(!std::is_convertible_v<DevicePointer<float>, float*>);
static_assert(!std::is_convertible_v<DevicePointer<float>, const float*>);
static_assert(!std::is_convertible_v<float*, DevicePointer<float>>, "only on purpose");
static_assert(!std::is_convertible_v<DevicePointer<float>, bool>);
static_assert(!Readable<DevicePointer<float>> && !Readable<DeviceSpan<float>>);
static_assert(Readable<float*>, "or the line above means nothing");
static_assert(std::is_convertible_v<DevicePointer<float>, DevicePointer<const float>>);
static_assert(!std::is_convertible_v<DevicePointer<const float>, DevicePointer<float>>);
static_assert(!std::is_convertible_v<DevicePointer<double>, DevicePointer<float>>);
static_assert(std::is_convertible_v<DeviceSpan<float>, DeviceSpan<const float>>);
static_assert(!std::is_convertible_v<DeviceSpan<float>, std::span<float>>);
static_assert(sizeof(DevicePointer<float>) == sizeof(float*));

TEST(DevicePointers, CountInElements) {
  std::vector<float> memory(8);  // stands for a device's
  const DeviceSpan<float> span = on_device(std::span(memory));
  EXPECT_EQ(span.size(), 8u);
  EXPECT_EQ((span.data() + 3).address(), memory.data() + 3);
  EXPECT_EQ(DevicePointer<const float>(span.data()).address(), memory.data());
  EXPECT_TRUE(span.data());
  EXPECT_FALSE(DevicePointer<float>());
  EXPECT_EQ(DevicePointer<float>(memory.data()), span.data());
}

}  // namespace
}  // namespace lockstep
