#pragma once

#include <cstddef>
#include <pthread.h>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

/// What decides the bits of CPU kernels, besides the binary: part of the numeric fingerprint.
struct CpuInfo {
  std::string model;  ///< of the first socket
  std::string isa;    ///< what oneDNN will dispatch to, see isa_of(), and the variables that bend it
  long l1d_bytes = 0;
  long l2_bytes = 0;
  long l3_bytes = 0;  ///< of the first core's caches; 0 where the system does not tell
};
CpuInfo cpu_info();

/// oneDNN's name of the best instruction set among the flags of /proc/cpuinfo, e.g. "avx512_core_amx"; empty
/// when there is none that it knows. (Names: oneDNN developer guide, "CPU Dispatcher Control".)
std::string isa_of(std::string_view cpu_flags);

/// The cpus in the calling thread's affinity mask, ascending; cgroup cpu quotas are not cpus and are not
/// looked at. For those of the process, ask before a LanePool pins the thread.
std::vector<int> allowed_cpus();

/// Restricts a thread to `cpus`, which must not be empty. Threads inherit the mask of the thread that starts
/// them, so a helper thread (data, communication) started by a pinned lane calls this with the process's
/// cpus. Throws DeviceError that names the cpus when the system refuses.
void pin_thread(pthread_t thread, const std::vector<int>& cpus);

/// The node's name as the kernel reports it.
std::string host_name();

/// Peak resident memory of this process in bytes (VmHWM).
std::size_t peak_resident_bytes();

}  // namespace lockstep
