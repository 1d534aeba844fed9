#include "device/gpu_health.h"

#include <cstdio>
#include <fmt/format.h>

#include "core/text.h"

namespace lockstep {
namespace {

constexpr const char* command =
    "timeout 10 nvidia-smi --query-gpu=uuid,memory.used,memory.total,temperature.gpu,"
    "ecc.errors.uncorrected.volatile.total "
    "--format=csv,noheader,nounits 2>/dev/null";

/// GPUs slow themselves down from about here on, by model.
constexpr std::uint64_t hot_celsius = 85;
/// A driver keeps some hundred MiB for itself.
constexpr std::uint64_t idle_mib = 1024;

/// "[N/A]", "[Not Supported]" and the like are no numbers.
std::optional<std::uint64_t> number(std::string_view text) {
  const auto value = parse_int64(trim(text));
  return value && *value >= 0 ? std::optional(static_cast<std::uint64_t>(*value)) : std::nullopt;
}

}  // namespace

std::vector<GpuReadings> parse_gpu_readings(std::string_view text) {
  std::vector<GpuReadings> all;
  for (const std::string_view line : split(text, '\n')) {
    const std::vector<std::string_view> fields = split(line, ',');
    if (fields.size() != 5 || !trim(fields[0]).starts_with("GPU-")) continue;
    all.push_back({std::string(trim(fields[0])), number(fields[1]), number(fields[2]), number(fields[3]),
                   number(fields[4])});
  }
  return all;
}

std::vector<GpuReadings> read_gpu_health() {
  std::FILE* pipe = ::popen(command, "r");
  if (pipe == nullptr) return {};
  std::string text;
  char buffer[4096];
  while (const std::size_t n = std::fread(buffer, 1, sizeof buffer, pipe)) text.append(buffer, n);
  ::pclose(pipe);
  return parse_gpu_readings(text);
}

std::string readings_text(const GpuReadings& r) {
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : ", ") + part; };
  if (r.celsius) add(fmt::format("{} C", *r.celsius));
  if (r.used_mib && r.total_mib) add(fmt::format("{} of {} MiB used", *r.used_mib, *r.total_mib));
  if (r.uncorrected) add(fmt::format("{} uncorrected memory errors", *r.uncorrected));
  return text.empty() ? "the driver tells nothing of its health" : text;
}

std::vector<HealthFinding> health_findings(const std::string& name, const GpuReadings& r) {
  std::vector<HealthFinding> findings;
  if (r.uncorrected.value_or(0) > 0)
    findings.push_back(
        {true, fmt::format("{} has lost data to {} uncorrected memory errors since its driver was loaded: "
                           "reset it, and replace it when they come again",
                           name, *r.uncorrected)});
  if (r.celsius.value_or(0) >= hot_celsius)
    findings.push_back({false, fmt::format("{} is at {} C and may slow itself down: look after its cooling",
                                           name, *r.celsius)});
  if (r.used_mib.value_or(0) > idle_mib)
    findings.push_back(
        {false, fmt::format("{} MiB of the memory of {} are used by other processes: end them, or leave "
                            "this GPU out (CUDA_VISIBLE_DEVICES)",
                            *r.used_mib, name)});
  return findings;
}

}  // namespace lockstep
