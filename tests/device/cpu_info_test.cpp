#include "device/cpu_info.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <gtest/gtest.h>
#include <string>
#include <thread>
#include <unistd.h>

#include "core/error.h"
#include "device/memory.h"

namespace lockstep {
namespace {

TEST(IsaOf, GivesOneDnnsNames) {
  const std::string avx2 = "fpu sse4_1 sse4_2 avx fma avx2";
  const std::string core = avx2 + " avx512f avx512dq avx512cd avx512bw avx512vl";
  EXPECT_EQ(isa_of("fpu sse sse2 sse4_1"), "sse41");
  EXPECT_EQ(isa_of("fpu sse4_1 avx"), "avx");
  EXPECT_EQ(isa_of(avx2), "avx2");
  EXPECT_EQ(isa_of(avx2 + " avx_vnni"), "avx2_vnni");
  EXPECT_EQ(isa_of(avx2 + " avx512f avx512cd"), "avx2");  // Knights Landing has no bw, vl and dq
  EXPECT_EQ(isa_of(core), "avx512_core");
  EXPECT_EQ(isa_of(core + " avx512_vnni"), "avx512_core_vnni");
  EXPECT_EQ(isa_of(core + " avx512_vnni avx512_bf16"), "avx512_core_bf16");
  EXPECT_EQ(isa_of(core + " avx512_vnni avx512_bf16 amx_bf16 avx512_fp16 amx_tile amx_int8"),
            "avx512_core_amx");
  EXPECT_EQ(isa_of(core + " avx512_vnni avx512_bf16 amx_tile"), "avx512_core_bf16");
  EXPECT_EQ(isa_of("fp asimd sve"), "");
  EXPECT_EQ(isa_of(""), "");
}

TEST(CpuInfoTest, DescribesThisMachine) {
  const CpuInfo info = cpu_info();
  EXPECT_FALSE(info.model.empty());
  EXPECT_FALSE(info.isa.empty());
  EXPECT_GE(info.l1d_bytes, 0);
  EXPECT_GE(info.l2_bytes, 0);
  EXPECT_GE(info.l3_bytes, 0);
}

TEST(CpuInfoTest, CachesAreThoseThatTheKernelLists) {
  const CpuInfo info = cpu_info();
  int compared = 0;
  for (int i = 0; i < 8; ++i) {
    const std::string cache = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i);
    int level = 0;
    std::string type;
    long kilobytes = 0;
    std::ifstream(cache + "/level") >> level;
    std::ifstream(cache + "/type") >> type;
    std::ifstream(cache + "/size") >> kilobytes;  // "48K"
    if (level < 1 || level > 3 || type == "Instruction") continue;
    EXPECT_EQ((level == 1   ? info.l1d_bytes
               : level == 2 ? info.l2_bytes
                            : info.l3_bytes),
              kilobytes * 1024)
        << "level " << level;
    ++compared;
  }
  if (compared == 0) GTEST_SKIP() << "the kernel lists no caches here";
}

TEST(CpuInfoTest, TheVariablesThatBendOneDnnAreInTheFingerprint) {
  const char* before = std::getenv("ONEDNN_MAX_CPU_ISA");
  if (before != nullptr) GTEST_SKIP() << "ONEDNN_MAX_CPU_ISA is set already";
  const std::string plain = cpu_info().isa;
  setenv("ONEDNN_MAX_CPU_ISA", "AVX2", 1);
  EXPECT_EQ(cpu_info().isa, plain + " ONEDNN_MAX_CPU_ISA=avx2");
  setenv("ONEDNN_MAX_CPU_ISA", "", 1);
  EXPECT_EQ(cpu_info().isa, plain);
  unsetenv("ONEDNN_MAX_CPU_ISA");
}

TEST(AllowedCpus, AreThoseOfTheMaskInOrder) {
  const std::vector<int> all = allowed_cpus();
  ASSERT_FALSE(all.empty());
  EXPECT_TRUE(std::is_sorted(all.begin(), all.end()));
  EXPECT_EQ(all.size(), std::thread::hardware_concurrency());
  std::thread([&all] {
    pin_thread(pthread_self(), {all.back()});
    EXPECT_EQ(allowed_cpus(), std::vector<int>{all.back()});
    pin_thread(pthread_self(), all);
    EXPECT_EQ(allowed_cpus(), all);
  }).join();
}

TEST(PinThread, NamesACpuThatDoesNotExist) {
  try {
    pin_thread(pthread_self(), {100'000});
    ADD_FAILURE() << "pinned";
  } catch (const DeviceError& e) {
    EXPECT_NE(std::string(e.what()).find("cpu 100000"), std::string::npos) << e.what();
  }
  EXPECT_THROW(pin_thread(pthread_self(), {}), InternalError);
  EXPECT_THROW(pin_thread(pthread_self(), {-1}), InternalError);
}

TEST(HostName, IsTheSystems) {
  char name[256] = {};
  ASSERT_EQ(gethostname(name, sizeof name - 1), 0);
  EXPECT_EQ(host_name(), name);
}

TEST(PeakResidentBytes, GrowsWithWhatIsTouched) {
  const std::size_t before = peak_resident_bytes();
  EXPECT_GT(before, std::size_t{1} << 20);
  HostBuffer buffer(before + (std::size_t{32} << 20));  // the peak may lie far above what is resident now
  std::fill_n(buffer.data(), buffer.size(), std::byte{1});
  EXPECT_GE(peak_resident_bytes(), before + (std::size_t{16} << 20));
}

}  // namespace
}  // namespace lockstep
