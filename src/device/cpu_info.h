#pragma once

#include <string>
#include <vector>

namespace lockstep {

/// What decides the bits of CPU kernels, besides the binary: part of the numeric fingerprint.
struct CpuInfo {
  std::string model;         ///< as in /proc/cpuinfo
  std::string isa;           ///< the instruction set that oneDNN will dispatch to, e.g. "avx512_core_amx"
  long l1d_bytes = 0;
  long l2_bytes = 0;
  long l3_bytes = 0;
};
CpuInfo cpu_info();

/// The cpus in this process's affinity mask, ascending; cgroup cpu quotas are not cpus and are not looked at.
std::vector<int> allowed_cpus();

/// The node's name as the kernel reports it.
std::string host_name();

/// Peak resident memory of this process in bytes (VmHWM).
std::size_t peak_resident_bytes();

}  // namespace lockstep
