#pragma once

#include <gtest/gtest.h>

#include "device/cuda/device.h"
#include "support/process.h"

/// Ends the test as skipped, or as failed with LOCKSTEP_REQUIRE=gpu, where there is no GPU; else makes the
/// first one current.
#define LOCKSTEP_NEED_GPU()                                                              \
  const ::lockstep::GpuProbe lockstep_probe = ::lockstep::cuda::probe_gpus();            \
  if (lockstep_probe.gpus.empty()) LOCKSTEP_SKIP_WITHOUT("gpu", lockstep_probe.problem); \
  const ::lockstep::cuda::Device device(lockstep_probe.gpus[0])
