#include "device/cpu_info.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <hwloc.h>
#include <memory>
#include <optional>
#include <sched.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <system_error>
#include <unistd.h>

#include "core/error.h"
#include "core/file.h"
#include "core/printable.h"
#include "core/text.h"

namespace lockstep {
namespace {

/// A kernel mask with room for `cpus` cpus, which may be more than a plain cpu_set_t holds.
struct FreeMask {
  void operator()(cpu_set_t* mask) const noexcept { CPU_FREE(mask); }
};
using Mask = std::unique_ptr<cpu_set_t, FreeMask>;

Mask make_mask(int cpus) {
  Mask mask(CPU_ALLOC(static_cast<std::size_t>(cpus)));
  if (!mask) throw std::bad_alloc();
  CPU_ZERO_S(CPU_ALLOC_SIZE(static_cast<std::size_t>(cpus)), mask.get());
  return mask;
}

/// The value of the first line "key : value" of a file under /proc.
std::string proc_value(std::string_view text, std::string_view key) {
  for (const std::string_view line : split(text, '\n')) {
    const std::size_t colon = line.find(':');
    if (colon != std::string_view::npos && trim(line.substr(0, colon)) == key)
      return std::string(trim(line.substr(colon + 1)));
  }
  return {};
}

std::string read_proc(const char* path) {
  try {
    return read_file(path, Empty::allow);
  } catch (const InputError&) {
    return {};  // a sandbox without /proc: what is only described is then described less well
  }
}

/// What hwloc tells of the machine. Cpus that a container may not use count too: what decides bits must not
/// depend on them.
struct Hardware {
  std::string model;
  long l1d_bytes = 0, l2_bytes = 0, l3_bytes = 0;
};

Hardware look_at_hardware() {
  struct Destroy {
    void operator()(hwloc_topology_t topology) const noexcept { hwloc_topology_destroy(topology); }
  };
  hwloc_topology_t made = nullptr;
  Hardware found;
  if (hwloc_topology_init(&made) != 0) return found;
  const std::unique_ptr<hwloc_topology, Destroy> topology(made);
  hwloc_topology_set_all_types_filter(made, HWLOC_TYPE_FILTER_KEEP_NONE);
  for (const hwloc_obj_type_t type :
       {HWLOC_OBJ_PACKAGE, HWLOC_OBJ_L1CACHE, HWLOC_OBJ_L2CACHE, HWLOC_OBJ_L3CACHE})
    hwloc_topology_set_type_filter(made, type, HWLOC_TYPE_FILTER_KEEP_ALL);
  hwloc_topology_set_flags(made, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
  if (hwloc_topology_load(made) != 0) return found;
  const auto cache_bytes = [&](hwloc_obj_type_t level) {
    const hwloc_obj_t cache = hwloc_get_obj_by_type(made, level, 0);
    return cache == nullptr ? 0L : static_cast<long>(cache->attr->cache.size);
  };
  found.l1d_bytes = cache_bytes(HWLOC_OBJ_L1CACHE);
  found.l2_bytes = cache_bytes(HWLOC_OBJ_L2CACHE);
  found.l3_bytes = cache_bytes(HWLOC_OBJ_L3CACHE);
  if (const hwloc_obj_t socket = hwloc_get_obj_by_type(made, HWLOC_OBJ_PACKAGE, 0); socket != nullptr) {
    const char* model = hwloc_obj_get_info_by_name(socket, "CPUModel");
    if (model != nullptr) found.model = trim(model);
  }
  return found;
}

/// Looked at once in a process: it takes some 15 ms, more on large machines.
const Hardware& hardware() {
  static const Hardware once = look_at_hardware();
  return once;
}

utsname system_names() {
  utsname names{};
  if (::uname(&names) != 0)
    throw DeviceError(
        fmt::format("the system does not tell its name: {}", std::generic_category().message(errno)));
  return names;
}

}  // namespace

std::string isa_of(std::string_view cpu_flags) {
  const std::vector<std::string_view> flags = split(cpu_flags, ' ');
  const auto has = [&flags](auto... names) {
    return ((std::find(flags.begin(), flags.end(), std::string_view(names)) != flags.end()) && ...);
  };
  if (has("avx512f", "avx512bw", "avx512vl", "avx512dq")) {
    if (!has("avx512_vnni")) return "avx512_core";
    if (!has("avx512_bf16")) return "avx512_core_vnni";
    return has("amx_tile", "amx_int8", "amx_bf16") ? "avx512_core_amx" : "avx512_core_bf16";
  }
  if (has("avx2")) return has("avx_vnni") ? "avx2_vnni" : "avx2";
  if (has("avx")) return "avx";
  return has("sse4_1") ? "sse41" : "";
}

CpuInfo cpu_info() {
  CpuInfo info;
  info.model = hardware().model;
  info.isa = isa_of(proc_value(read_proc("/proc/cpuinfo"), "flags"));  // hwloc knows no flags
  if (info.model.empty()) info.model = system_names().machine;
  if (info.isa.empty()) info.isa = system_names().machine;
  // oneDNN takes each variable under its present and its former name; both bend what is dispatched.
  for (const char* name : {"MAX_CPU_ISA", "CPU_ISA_HINTS", "DEFAULT_FPMATH_MODE"}) {
    for (const char* prefix : {"ONEDNN_", "DNNL_"}) {
      const std::string variable = std::string(prefix) + name;
      const char* value = std::getenv(variable.c_str());
      if (value == nullptr || *value == '\0') continue;
      info.isa += fmt::format(" {}={}", variable, to_lower(value));
      break;
    }
  }
  info.l1d_bytes = hardware().l1d_bytes;
  info.l2_bytes = hardware().l2_bytes;
  info.l3_bytes = hardware().l3_bytes;
  return info;
}

std::vector<int> allowed_cpus() {
  for (int room = 1024;; room *= 2) {
    const Mask mask = make_mask(room);
    const std::size_t bytes = CPU_ALLOC_SIZE(static_cast<std::size_t>(room));
    if (::sched_getaffinity(0, bytes, mask.get()) != 0) {
      if (errno == EINVAL && room < (1 << 20)) continue;  // the kernel's mask is larger
      throw DeviceError(fmt::format("cannot learn which cpus this process may use: {}",
                                    std::generic_category().message(errno)));
    }
    std::vector<int> cpus;
    for (int cpu = 0; cpu < room; ++cpu) {
      if (CPU_ISSET_S(static_cast<std::size_t>(cpu), bytes, mask.get())) cpus.push_back(cpu);
    }
    return cpus;
  }
}

void pin_thread(pthread_t thread, const std::vector<int>& cpus) {
  require(!cpus.empty() && *std::min_element(cpus.begin(), cpus.end()) >= 0, "pin_thread: no cpu");
  const int room = *std::max_element(cpus.begin(), cpus.end()) + 1;
  const Mask mask = make_mask(room);
  const std::size_t bytes = CPU_ALLOC_SIZE(static_cast<std::size_t>(room));
  for (const int cpu : cpus) CPU_SET_S(static_cast<std::size_t>(cpu), bytes, mask.get());
  const int error = ::pthread_setaffinity_np(thread, bytes, mask.get());
  if (error != 0)
    throw DeviceError(fmt::format("cannot pin a lane to cpu {}: {}; set device.pin=false",
                                  fmt::join(cpus, ","), std::generic_category().message(error)));
}

std::string host_name() {
  return printable(system_names().nodename);
}

std::size_t peak_resident_bytes() {
  // "VmHWM:	   12345 kB"
  const std::string value = proc_value(read_proc("/proc/self/status"), "VmHWM");
  const auto kilobytes = parse_int64(split(value, ' ').front());
  if (kilobytes && *kilobytes > 0) return static_cast<std::size_t>(*kilobytes) * 1024;
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

}  // namespace lockstep
