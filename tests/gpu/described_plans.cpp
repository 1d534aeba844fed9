// Which convolutions of the workloads and of the tests cuDNN has plans for, asked for devices that are
// described and need not be there, as Markdown. Limits as in a run: deterministic, 1 GiB of workspace, sums
// in float32.
//   described_plans [DEVICE…]       default: H100 H200 B200
// The first table counts plans; the second names what has none. Exit code 1 where a pass has none at all.

#include <algorithm>
#include <dlfcn.h>
#include <fmt/format.h>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "model/cuda/library/library_plans.h"
#include "model/cuda/plan/conv_passes.h"
#include "model/cuda/plan/plan.h"
#include "model/ops/loss/cross_entropy.h"
#include "model/zoo/layers_line.h"
#include "model/zoo/zoo.h"

namespace lockstep::cuda {
namespace {

/// From NVIDIA's data sheets and the CUDA programming guide's table of compute capabilities.
std::string description_of(const std::string& device) {
  nlohmann::json d = {{"schemaVersion", 1},
                      {"cudaDeviceId", 0},
                      {"pciDeviceId", 0},
                      {"isTccDriver", 0},
                      {"supportCoopLaunch", 1},
                      {"driverVer", 13000},
                      {"warpSize", 32},
                      {"maxGridSize", {2147483647, 65535, 65535}},
                      {"maxBlockSize", {1024, 1024, 64}},
                      {"maxThreadsPerBlock", 1024},
                      {"maxThreadsPerSM", 2048},
                      {"maxCtasPerSM", 32},
                      {"regsPerBlock", 65536},
                      {"maxRegistersPerSM", 65536},
                      {"maxSharedMemoryPerBlock", 49152},
                      {"maxSharedMemoryPerBlockOptin", 232448},
                      {"reservedSharedMemoryPerBlock", 1024}};
  const auto set = [&](const char* name, int version, int multiprocessors, std::int64_t memory, int sm_khz,
                       int memory_khz, int l2) {
    d["deviceName"] = name;
    d["deviceVer"] = version;
    d["multiProcessorCount"] = multiprocessors;
    d["totalGlobalMem"] = memory;
    d["smClockRateKHz"] = sm_khz;
    d["memClockRateKHz"] = memory_khz;
    d["l2CacheSize"] = l2;
  };
  constexpr std::int64_t gb = 1'000'000'000;
  constexpr int mib = 1 << 20;
  if (device == "H100") {
    set("NVIDIA H100 80GB HBM3", 900, 132, 85 * gb, 1'980'000, 2'619'000, 50 * mib);
  } else if (device == "H200") {
    set("NVIDIA H200", 900, 132, 150 * gb, 1'980'000, 3'201'000, 60 * mib);
  } else if (device == "B200") {
    set("NVIDIA B200", 1000, 148, 192 * gb, 1'965'000, 3'996'000, 126 * mib);
  } else {
    throw ConfigError("\"" + device + "\" is none of H100, H200, B200");
  }
  return d.dump();
}

struct Subject {
  std::string name;
  lockstep::Graph graph;
  std::int64_t rows;
};

std::vector<Subject> subjects() {
  std::vector<Subject> all;
  const OpAttrs loss = CrossEntropyAttrs{};
  all.push_back({"resnet50", build_model("resnet50", {}, {3, 224, 224}, 1000, loss), 256});
  all.push_back({"resnet18_cifar", build_model("resnet18", {}, {3, 32, 32}, 10, loss), 256});
  const auto layers = [&](const std::string& name, const std::string& line, const Shape& input,
                          std::int64_t rows) {
    all.push_back({name, build_layers(line, input, 5, loss), rows});
  };
  layers("keras_cnn", "conv:32x3 relu maxpool:2 flatten dense:5", {1, 28, 28}, 64);
  layers("small.ini", "conv:16x3,pad=1 bn relu maxpool:2 flatten dense:5", {3, 16, 16}, 32);
  layers("GpuPlacement", "conv:16x3,pad=1 bn relu maxpool:2 conv:24x3 bn relu flatten dense:5", {3, 12, 12},
         4);
  layers("GpuAutotune", "conv:16x3,pad=1 relu conv:16x3,pad=1 relu flatten dense:5", {8, 12, 12}, 16);
  layers("DeviceStep", "conv:16x3,pad=1 bn relu maxpool:2 conv:24x3 relu flatten dense:5", {2, 8, 8}, 3);
  int n = 0;
  for (const char* line : {"conv:6x3 flatten dense:5", "conv:6x3,pad=1,stride=2 relu flatten dense:5",
                           "conv:6x5,pad=2,stride=3 flatten dense:5", "conv:6x3 bn relu flatten dense:5",
                           "conv:8x3,bias=0 bn relu conv:16x3,bias=0,stride=2 bn flatten dense:5"})
    layers(fmt::format("DeviceExecutor {}", ++n), line, {3, 9, 10}, 4);
  layers("groups of 1", "conv:6x3,groups=3,bias=0 conv:6x3,groups=6,pad=1 flatten dense:5", {3, 9, 10}, 4);
  layers("groups of 16", "conv:32x3,groups=2,pad=1 conv:32x3,groups=2,pad=1,bias=0 flatten dense:5",
         {32, 16, 16}, 16);
  for (const int c : {1, 3, 6})
    layers(fmt::format("{} channels", c), "conv:16x3,pad=1 relu conv:6x1 flatten dense:5", {c, 16, 16}, 16);
  return all;
}

/// What a table counts apart.
enum class Kind { forward, norm, sums, data, masked, weights, narrow_weights };
constexpr const char* kinds[] = {"forward",     "with norm", "with sums",      "data gradient",
                                 "with a mask", "weights",   "weights, 16 bit"};

Kind kind_of(ConvPass pass) {
  switch (pass) {
    case ConvPass::forward_norm:
    case ConvPass::forward_norm_relu:
    case ConvPass::forward_norm_add_relu:
      return Kind::norm;
    case ConvPass::forward_sums:
      return Kind::sums;
    case ConvPass::data:
      return Kind::data;
    case ConvPass::data_norm:
      return Kind::masked;
    case ConvPass::weights:
      return Kind::weights;
    case ConvPass::weights_16_bits:
      return Kind::narrow_weights;
    default:
      return Kind::forward;
  }
}

/// Every pass and shape of a graph, and by which passes each of its commands can be computed.
std::vector<std::pair<std::vector<ConvPass>, ConvShape>> asked_of(const Subject& subject,
                                                                  Precision precision) {
  std::vector<std::pair<std::vector<ConvPass>, ConvShape>> asked;
  for (const bool training : {true, false}) {
    const Plan plan = make_plan(subject.graph, subject.rows, training, precision, 1 << 20, true);
    for (const auto* commands : {&plan.forward, &plan.backward})
      for (const Command& command : *commands) {
        if (const auto* c = std::get_if<ConvForward>(&command)) asked.emplace_back(passes_of(*c), c->shape);
        if (const auto* c = std::get_if<ConvNormForward>(&command))
          asked.emplace_back(passes_of(*c), c->shape);
        if (const auto* c = std::get_if<ConvBackwardData>(&command))
          asked.emplace_back(passes_of(*c), c->shape);
        if (const auto* c = std::get_if<ConvBackwardWeights>(&command))
          asked.emplace_back(passes_of(*c, precision), c->shape);
      }
  }
  return asked;
}

int program(std::vector<std::string> devices) {
  if (devices.empty()) devices = {"H100", "H200", "B200"};
  // cuDNN compiles those of a convolution with a norm, and asks for the driver's library even to list them.
  const bool has_driver = dlopen("libcuda.so.1", RTLD_LAZY) != nullptr;
  std::cout << "cuDNN " << ConvLibrary::version()
            << (has_driver ? ""
                           : ", without a driver, so without plans that are compiled when they are chosen")
            << ". Plans that can be built, of the different convolutions that are asked for.\n\n| graph | "
               "precision |";
  for (const char* kind : kinds) std::cout << ' ' << kind << " |";
  std::cout << "\n|---|---|";
  for (std::size_t k = 0; k < std::size(kinds); ++k) std::cout << "---|";
  std::cout << '\n';
  std::map<std::string, std::set<std::string>> missing;  // what has no plan at all, on which devices
  const std::vector<Subject> all = subjects();
  for (const Subject& subject : all)
    for (const auto& [precision, name] : {std::pair(Precision::fp32, "fp32"),
                                          {Precision::tf32, "tf32"},
                                          {Precision::bf16, "bf16"},
                                          {Precision::fp16, "fp16"}}) {
      std::map<std::string, std::map<Kind, std::pair<int, int>>> counts;
      for (const std::string& device : devices) {
        CudaOptions options;
        options.precision = precision;
        options.half_sums = true;  // what cuDNN has, whether or not it is taken
        ConvLibrary library(options, description_of(device));
        std::map<std::string, bool> known;
        for (const auto& [passes, shape] : asked_of(subject, precision)) {
          bool any = false;
          for (const ConvPass pass : passes) {
            const std::string what = describe(pass, shape);
            const auto [at, fresh] = known.emplace(what, false);
            if (fresh) {
              at->second = library.prepare(pass, shape, "");
              auto& [has, of] = counts[device][kind_of(pass)];
              has += at->second;
              ++of;
            }
            any = any || at->second;
          }
          if (!any)
            missing[fmt::format("{}, {}: {}", subject.name, name, describe(passes.back(), shape))].insert(
                device);
        }
      }
      std::cout << "| " << subject.name << " | " << name << " |";
      for (std::size_t k = 0; k < std::size(kinds); ++k) {
        std::set<std::string> texts;
        std::string apart;
        for (const std::string& device : devices) {
          const auto [has, of] = counts[device][static_cast<Kind>(k)];
          const bool asked = static_cast<Kind>(k) != Kind::norm || has_driver;
          const std::string text = of == 0 ? "" : asked ? fmt::format("{}/{}", has, of) : "not asked";
          texts.insert(text);
          apart += fmt::format("{}{} {}", apart.empty() ? "" : ", ", device, text);
        }
        std::cout << ' ' << (texts.size() == 1 ? *texts.begin() : apart) << " |";
      }
      std::cout << std::endl;
    }
  std::cout << '\n';
  for (const auto& [what, where] : missing) {
    std::cout << "none for " << what << " on";
    for (const std::string& device : where) std::cout << ' ' << device;
    std::cout << '\n';
  }
  if (missing.empty()) std::cout << "Every convolution can be computed.\n";
  return missing.empty() ? 0 : 1;
}

}  // namespace
}  // namespace lockstep::cuda

int main(int argc, char** argv) {
  try {
    return lockstep::cuda::program({argv + 1, argv + argc});
  } catch (const std::exception& e) {
    std::cerr << "described_plans: " << e.what() << '\n';
    return 2;
  }
}
