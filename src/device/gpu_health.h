#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

/// What the driver's tool tells of a GPU; empty what it does not.
struct GpuReadings {
  std::string uuid;                       ///< as in GpuInfo
  std::optional<std::uint64_t> used_mib;  ///< memory, by all processes
  std::optional<std::uint64_t> total_mib;
  std::optional<std::uint64_t> celsius;
  std::optional<std::uint64_t> uncorrected;  ///< memory errors that lost data, since the driver was loaded
};

/// Of all GPUs of the machine, as nvidia-smi says within ten seconds; none where there is no such program or
/// it says nothing. Never throws on account of the system.
std::vector<GpuReadings> read_gpu_health();

/// nvidia-smi's answer, a line a GPU; lines that are none are left out.
std::vector<GpuReadings> parse_gpu_readings(std::string_view text);

/// "34 C, 512 of 81559 MiB used, 0 uncorrected memory errors".
std::string readings_text(const GpuReadings& readings);

struct HealthFinding {
  bool wrong = false;  ///< results may be wrong; else it is slow or in somebody's way
  std::string text;    ///< a sentence
};
/// What is doubtful about the GPU that is called `name`.
std::vector<HealthFinding> health_findings(const std::string& name, const GpuReadings& readings);

}  // namespace lockstep
