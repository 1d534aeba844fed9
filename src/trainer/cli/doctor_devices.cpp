#include "trainer/cli/doctor_devices.h"

#include <algorithm>
#include <fmt/format.h>

#include "core/text.h"
#include "device/gpu_health.h"
#include "trainer/step/device_table.h"

namespace lockstep {

DeviceHealth examine_devices() {
  DeviceHealth health;
  health.kinds = "cpu";
  for (const DeviceEntry& entry : accelerators()) {
    if (!entry.built) {
      health.kinds += fmt::format("; {} is not part of this build ({})", entry.name, entry.missing);
      continue;
    }
    const GpuProbe probe = entry.probe();
    if (probe.gpus.empty()) {
      health.kinds += fmt::format("; {} is built in, but cannot be used here: {} ({})", entry.name,
                                  probe.problem, entry.libraries());
      continue;
    }
    health.kinds += fmt::format("; {} ({})", entry.name, entry.libraries());
    const std::vector<GpuReadings> readings = read_gpu_health();
    for (const GpuInfo& gpu : probe.gpus) {
      const auto told = std::find_if(readings.begin(), readings.end(),
                                     [&](const GpuReadings& r) { return r.uuid == gpu.uuid; });
      const GpuReadings mine = told == readings.end() ? GpuReadings{} : *told;
      health.lines.push_back(fmt::format(
          "{} {}: {}, compute capability {}.{}, {} multiprocessors, {}, {}, PCI {}; {}", entry.name,
          gpu.ordinal, gpu.name, gpu.capability_major, gpu.capability_minor, gpu.multiprocessors,
          human_bytes(gpu.memory_bytes), gpu.uuid, gpu.pci_bus_id, readings_text(mine)));
      for (const HealthFinding& f : health_findings(fmt::format("{} {}", entry.name, gpu.ordinal), mine))
        health.findings.push_back({f.wrong, f.text});
    }
  }
  return health;
}

}  // namespace lockstep
